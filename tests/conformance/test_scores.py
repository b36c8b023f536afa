"""Scores in closed form, by really zeroing and by gradients, against plain hooks and plain autograd."""

from functools import cache

import pytest
import torch

import emotrace as et
from emotrace.errors import DataError, ModelError
from tests.conformance.cases import CONDITIONS, FAMILY, LONG, PARALLEL, SAMPLES, named, plain, random, statistics
from tests.conformance.hooks import HookEdit, Hooks, activations, edited, forward, layout_of, module_at
from tests.tiny import MIXTURES, close

EXACT = 1e-12
LAYER_NORMS = ("gpt2", "gpt_neox", "gpt_neox_sequential")
NORMS_AFTER = ("gemma2", "gemma3_text", "olmo2")
WITHOUT_A_NORM = (PARALLEL, "olmo2")  # one that reads the stream between the sublayers
SIZES = {"heads": 4, "neurons": 40}
families = pytest.mark.parametrize("family", FAMILY)


def tolerance(family, readout):
    """RMSNorm computes in float32, whatever the model's dtype; the closed form does not."""
    rounded = family in NORMS_AFTER or (readout == "normed" and family not in LAYER_NORMS)
    return 5e-6 if rounded else EXACT


@cache
def directions():
    vectors = torch.nn.functional.normalize(random(2, 3, 2, 32, seed=5), dim=-1)
    reference = torch.nn.functional.normalize(random(2, 32, seed=6), dim=-1)
    ones = torch.ones(3, 2, dtype=torch.float64)
    return et.Directions(CONDITIONS, "neutral", "last", vectors, torch.stack([ones, ones]), ones, reference, (1,))


def streams(hf, ids, edits=(), readout="residual"):
    """What scores read, at the last token of each layer ``[L, D]``: after attention's add, and after the MLP's."""
    seen, normed, layout = Hooks(), [], layout_of(hf)
    with edited(hf, edits, len(ids)):
        if readout == "normed":
            for block in module_at(hf, layout.blocks):
                seen.after(module_at(block, layout.mlp_reads), lambda x: normed.append(x[0, -1].clone()))
        try:
            found = activations(hf, ids)
        finally:
            seen.remove()
    return torch.stack(normed) if normed else found["resid_attn"][:, -1], found["resid_mlp"][:, -1]


@cache
def falls(family, site, indices, readout="residual"):
    """Mean over each emotion's prompts of what zeroing at every token takes from the projection, ``[E, L, K]``."""
    hf, sublayer = plain(family), ("heads", "neurons").index(site)
    total = torch.zeros(2, 3, len(indices), dtype=torch.float64)
    for sample in SAMPLES:
        before = streams(hf, sample.prompt, (), readout)[sublayer]
        for layer in range(3):
            vector = directions().vectors[sample.condition, layer, sublayer]
            for at, index in enumerate(indices):
                after = streams(hf, sample.prompt, [HookEdit("zero", site, layer, index)], readout)[sublayer]
                total[sample.condition, layer, at] += (before[layer] - after[layer]) @ vector
    return total / torch.tensor([1.0, 2.0])[:, None, None]


def some(site, family):
    """Heads all; of the neurons, those that a test has time for."""
    return tuple(range(4)) if site == "heads" else (0, 7, 13, 22, 39)


def sites_of(family):
    return [site for site in SIZES if site == "heads" or family not in MIXTURES]


def options(readout):
    return {} if readout == "residual" else {"readout": readout}


def readouts(family, site):
    return ("residual", "normed") if site == "heads" and family not in WITHOUT_A_NORM else ("residual",)


@families
def test_analytic_scores_are_what_zeroing_takes(family):
    score = {"heads": et.score_heads, "neurons": et.score_neurons}
    for site in sites_of(family):
        for readout in readouts(family, site):
            wanted = falls(family, site, some(site, family), readout)
            found = score[site](named(family), statistics(family), directions(), samples=SAMPLES, **options(readout))
            assert found.shape == (2, 3, SIZES[site])
            assert wanted.abs().max() > 1e-2
            assert close(found[..., list(some(site, family))], wanted, tolerance(family, readout)), (site, readout)
    if family in MIXTURES:
        assert et.score_neurons(named(family), statistics(family), directions()).shape == (2, 3, 0)


@families
def test_scores_of_both_sites_at_once_are_the_same(family):
    given = (named(family), statistics(family), directions())
    for readout in readouts(family, "heads"):
        both = et.score_components(*given, differences(family), samples=SAMPLES, readout=readout)
        heads = et.score_heads(*given, samples=SAMPLES, readout=readout)
        assert close(both.heads, heads, 1e-12)
        if family not in MIXTURES:
            assert close(both.neurons, et.score_neurons(*given, samples=SAMPLES), 1e-12)


@families
def test_causal_scores(family):
    prompts = {name: [s.prompt for s in SAMPLES if s.condition == n] for n, name in enumerate(CONDITIONS)}
    for site in sites_of(family):
        for readout in readouts(family, site):
            wanted = falls(family, site, some(site, family), readout)
            chosen = {layer: some(site, family) for layer in range(3)}
            found = et.causal_scores(named(family), prompts, directions(), site, chosen, readout=readout)
            got = torch.tensor(
                [[[found[name, layer, i] for i in chosen[layer]] for layer in range(3)] for name in CONDITIONS],
                dtype=torch.float64,
            )
            assert close(got, wanted, EXACT), (site, readout)


@pytest.mark.parametrize("family", WITHOUT_A_NORM)
def test_a_readout_that_the_family_lacks_is_refused(family):
    given = {"samples": SAMPLES, "readout": "normed"}
    with pytest.raises(ModelError, match=family):
        et.score_heads(named(family), statistics(family), directions(), **given)
    with pytest.raises(ModelError, match=family):
        et.causal_scores(
            named(family),
            {n: [] for n in CONDITIONS} | {CONDITIONS[0]: [SAMPLES[0].prompt]},
            directions(),
            "heads",
            {0: [1]},
            readout="normed",
        )


@pytest.mark.parametrize("family", NORMS_AFTER)
def test_a_second_pass_needs_samples(family):
    for score in (et.score_heads, et.score_neurons):
        with pytest.raises(DataError, match="samples"):
            score(named(family), statistics(family), directions())


def differences(family):
    heads = random(2, *statistics(family).last["heads"].shape[1:], seed=7)
    neurons = random(2, 3, statistics(family).last["neurons"].shape[-1], seed=8)
    held = {"heads": heads, "neurons": neurons}
    return et.Differences(CONDITIONS, "neutral", held, held)


METRICS = {
    "one for each row": lambda logits: logits[:, 7] - logits[:, 8].square(),
    "one in all": lambda logits: logits.log_softmax(-1)[:, 9].sum(),
}


def autograd(family, ids, metric, tokens):
    """Gradients at every head and neuron: those of a zero that is added there, at the tokens given."""
    hf, shape = plain(family), statistics(family).last["heads"].shape
    zeros = {("heads", layer, i): torch.zeros(shape[-1]) for layer in range(3) for i in range(4)}
    if family not in MIXTURES:
        zeros |= {("neurons", layer, i): torch.zeros(()) for layer in range(3) for i in range(40)}
    zeros = {key: value.double().requires_grad_(True) for key, value in zeros.items()}
    edits = [HookEdit("add", *key, value=zero, tokens=tokens) for key, zero in zeros.items()]
    with torch.enable_grad(), edited(hf, edits, len(ids)):
        metric(hf(torch.tensor([list(ids)]), use_cache=False).logits[:, -1]).sum().backward()
    heads = torch.stack([value.grad for (site, *_), value in zeros.items() if site == "heads"])
    neurons = [value.grad for (site, *_), value in zeros.items() if site == "neurons"]
    return heads.unflatten(0, (3, 4)), torch.stack(neurons).unflatten(0, (3, 40)) if neurons else torch.zeros(3, 0)


@pytest.mark.parametrize("family", LONG)
def test_gradient_scores_are_those_of_plain_autograd(family):
    prompts, given = [s.prompt for s in SAMPLES], differences(family)
    for tokens in ("last", "prompt"):
        for name, metric in METRICS.items():
            found = et.gradient_scores(named(family), prompts, given, metric, tokens=tokens)
            heads, neurons = zip(*(autograd(family, ids, metric, tokens) for ids in prompts), strict=True)
            wanted = (torch.stack(heads).mean(0) * given.last["heads"]).sum(-1)
            assert close(found.heads, wanted, EXACT), (tokens, name)
            assert found.neurons.shape == given.last["neurons"].shape
            if family not in MIXTURES:
                assert close(found.neurons, torch.stack(neurons).mean(0) * given.last["neurons"], EXACT)


@pytest.mark.parametrize("family", ["gpt2"])  # LayerNorm keeps float64, which differences of nearby numbers need
def test_gradient_scores_are_what_small_steps_give(family):
    hf, given, step = plain(family), differences(family), 1e-5
    prompts, metric = [s.prompt for s in SAMPLES], METRICS["one for each row"]
    found = et.gradient_scores(named(family), prompts, given, metric)
    for site, index in (("heads", 2), ("neurons", 11)):
        for emotion in range(2):
            for layer in range(3):
                moved = 0.0
                for ids in prompts:
                    for sign in (1, -1):
                        value = sign * step * given.last[site][emotion, layer, index]
                        edit = HookEdit("add", site, layer, index, value=value, tokens="last")
                        moved += sign * float(metric(forward(hf, ids, [edit])[-1:])) / (2 * step * len(prompts))
                score = float(found.at(site)[emotion, layer, index])
                assert abs(moved - score) < 1e-6 * max(1, abs(score))
