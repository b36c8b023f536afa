"""What is read, and what weights make of it, against plain hooks on every prompt alone."""

from functools import partial

import pytest
import torch

import emotrace as et
from tests.conformance.cases import (
    CONDITIONS,
    FAMILY,
    PARALLEL,
    PROMPTS,
    SAMPLES,
    SPAN,
    WITH_MEANS,
    located,
    named,
    part,
    plain,
    sample_states,
    statistics,
)
from tests.conformance.hooks import SITES, activations, projections
from tests.tiny import MIXTURES, close

EXACT = 1e-12
families = pytest.mark.parametrize("family", FAMILY)


def sites_of(family):
    return [site for site in SITES if site != "neurons" or family not in MIXTURES]


@families
def test_captured_means(family):
    found, states = statistics(family), sample_states(family)
    assert found.count.tolist() == found.reply_count.tolist() == [1, 2]
    streams = [
        torch.stack([s[site].square().mean(-1).sqrt() for site in ("resid_attn", "resid_mlp")], -1) for s in states
    ]
    for place, means in (("last", found.last), ("reply", found.reply)):
        for site in (*WITH_MEANS, "rms"):
            if site == "neurons" and family in MIXTURES:
                assert means[site].shape == (2, 3, 0)
                continue
            for number in range(len(CONDITIONS)):
                values = []
                for sample, state, stream in zip(SAMPLES, states, streams, strict=True):
                    each, n = stream if site == "rms" else state[site], len(sample.prompt)
                    if sample.condition == number:
                        values.append(each[:, n - 1] if place == "last" else each[:, n:].mean(1))
                assert close(means[site][number], torch.stack(values).mean(0), EXACT), (site, place)
    together = et.capture(named(family), SAMPLES[::-1], CONDITIONS, batch_tokens=1)
    assert all(
        close(together.reply[site], found.reply[site], EXACT) for site in WITH_MEANS if found.reply[site].numel()
    )


@families
def test_recorded_activations(family):
    states = [activations(plain(family), ids) for ids in PROMPTS]
    keys = {site: [2, 0, 1] for site in sites_of(family)}
    keys |= {"heads": [(1, 3), (0, 0), (1, 1), (2, 2)]}
    keys |= {"neurons": [(2, 39), (0, 4), (2, 3)]} if "neurons" in keys else {}
    for tokens in ("last", "prompt", (0, -2, 1), SPAN):
        for prompts in (PROMPTS[:1], PROMPTS) if tokens != "prompt" else (PROMPTS[:1], PROMPTS[1:2]):
            found = et.record(named(family), prompts, tokens=tokens, **keys)
            for row, ids in enumerate(prompts):
                n, state = len(ids), states[PROMPTS.index(ids)]
                where = {"last": (n - 1,), "prompt": tuple(range(n))}.get(tokens) or located(tokens, ids)
                assert (found.positions[row] % n).tolist() == [i % n for i in where]
                for site, held in keys.items():
                    got = torch.stack([v if len(prompts) == 1 else v[row] for v in map(partial(found.of, site), held)])
                    wanted = torch.stack([part(state[site], key)[list(where)] for key in held])
                    assert close(got, wanted, EXACT), (site, tokens)


def test_the_stream_between_parallel_sublayers_is_what_attention_leaves():
    """It exists as a sum only: of the block's input and attention's output."""
    found = et.record(named(PARALLEL), PROMPTS[:1], resid_attn=[0, 1, 2], attn_out=[0, 1, 2], resid_mlp=[0, 1, 2])
    for layer in (1, 2):
        entered = found.of("resid_mlp", layer - 1)
        assert close(found.of("resid_attn", layer), entered + found.of("attn_out", layer), EXACT)


@families
def test_raw_writes_and_bias_sum_to_what_the_projection_gives(family):
    model, ids = named(family), PROMPTS[1]
    state = activations(plain(family), ids)
    for site, output in zip(("heads", "neurons"), projections(plain(family), ids), strict=True):
        if site == "neurons" and family in MIXTURES:
            assert model.write_weight(site, 0).shape == (32, 0, 1)
            continue
        for layer in range(3):
            weight, values = model.write_weight(site, layer), state[site][layer]
            values = values if site == "heads" else values[..., None]
            writes = torch.stack([values[:, i] @ weight[:, i].T for i in range(values.shape[1])])
            assert close(writes.sum(0) + model.write_bias(site, layer), output[layer], EXACT)
            chosen = model.write_weight(site, layer, [3, 1])
            assert torch.equal(chosen, weight[:, [3, 1]])
