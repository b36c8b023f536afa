"""Capture against plain hooks, one sample at a time, without padding."""

import pytest
import torch

from emotrace.errors import DataError
from emotrace.trace.capture import SITES, Sample, capture, state_coordinates
from tests.tiny import close, hooked, random_prompts, tiny_model, torch_model


def samples(count: int = 9) -> list[Sample]:
    prompts, replies = random_prompts(count), random_prompts(count, seed=5, shortest=1, longest=5)
    return [Sample(i % 3, tuple(p), tuple(r)) for i, (p, r) in enumerate(zip(prompts, replies, strict=True))]


def by_hooks(model, sample):
    """Activations of one sample at each site: last prompt token, and mean over the reply."""
    plain, found = torch_model(model), {site: [] for site in SITES}
    hf = plain.model
    ids = torch.tensor([[*sample.prompt, *sample.reply]])
    from contextlib import ExitStack

    with ExitStack() as stack, torch.no_grad():
        for block in hf.layers:
            for site, module in (
                ("heads", block.self_attn.o_proj),
                ("resid_attn", block.post_attention_layernorm),
                ("neurons", block.mlp.down_proj),
            ):
                stack.enter_context(hooked(module, before=lambda x, s=site: found[s].append(x[0].clone()) or x))
            stack.enter_context(hooked(block, after=lambda y: found["resid_mlp"].append(y[0].clone()) or y))
        plain(ids)
    n = len(sample.prompt)
    return {site: torch.stack(values)[:, n - 1] for site, values in found.items()}, {
        site: torch.stack(values)[:, n:].mean(1) for site, values in found.items()
    }


def test_means_equal_hooks():
    model = tiny_model()
    statistics = capture(model, samples(), ("a", "b", "c"), batch_tokens=40)
    assert statistics.count.tolist() == [3, 3, 3]
    for condition in range(3):
        members = [by_hooks(model, s) for s in samples() if s.condition == condition]
        for place, index in (("last", 0), ("reply", 1)):
            for site in SITES:
                expected = torch.stack([m[index][site] for m in members]).mean(0)
                got = statistics.at(place)[site][condition]
                assert close(got.flatten(1), expected.flatten(1), 1e-12), (place, site)
        rms = torch.stack(
            [torch.stack([m[0][s].square().mean(-1).sqrt() for s in ("resid_attn", "resid_mlp")], -1) for m in members]
        ).mean(0)
        assert close(statistics.last["rms"][condition], rms, 1e-12)


def test_budget_changes_nothing_and_float32_is_close():
    one = capture(tiny_model(), samples(), ("a", "b", "c"), batch_tokens=1)
    all_at_once = capture(tiny_model(), samples(), ("a", "b", "c"), batch_tokens=10_000)
    single = capture(tiny_model(dtype=torch.float32), samples(), ("a", "b", "c"), batch_tokens=50)
    for site in SITES:
        assert close(one.last[site], all_at_once.last[site], 1e-12)
        assert close(one.reply[site], all_at_once.reply[site], 1e-12)
        assert single.last[site].dtype == torch.float64
        assert close(single.last[site], one.last[site], 1e-5)


def test_statistics_survive_a_round_trip(tmp_path):
    statistics = capture(tiny_model(), samples(), ("a", "b", "c"))
    loaded = type(statistics).load(statistics.save(tmp_path / "s.safetensors"))
    assert loaded.conditions == statistics.conditions
    assert all(torch.equal(loaded.reply[site], statistics.reply[site]) for site in SITES)


def test_every_condition_needs_a_sample():
    with pytest.raises(DataError, match="no samples for c"):
        capture(tiny_model(), [s for s in samples() if s.condition < 2], ("a", "b", "c"))
    with pytest.raises(DataError, match="nothing to capture"):
        capture(tiny_model(), [], ("a",))


@pytest.mark.parametrize(("count", "numbers"), [(7, 7), (40, 32)])
def test_coordinates_of_states_keep_inner_products_and_the_order_given(count, numbers):
    model, prompts = tiny_model(), random_prompts(count)
    found = state_coordinates(model, prompts, (2, 0), batch_tokens=20)
    assert found.shape == (count, 2, 2, numbers)
    seen = [by_hooks(model, Sample(0, tuple(prompt), (7,)))[0] for prompt in prompts]
    for at, layer, sublayer, site in ((0, 2, 1, "resid_mlp"), (1, 0, 0, "resid_attn")):
        states = torch.stack([last[site][layer] for last in seen])
        assert close(found[:, at, sublayer] @ found[:, at, sublayer].T, states @ states.T, 1e-5)
