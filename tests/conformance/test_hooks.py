"""The reference itself, by relations that hold in any transformer and need no library."""

from functools import cache

import pytest
import torch

from tests.conformance.hooks import (
    SITES,
    HookEdit,
    activations,
    edited,
    forward,
    greedy,
    layout_of,
    positions,
    projections,
)
from tests.conformance.hooks import module_at as at
from tests.tiny import FAMILIES, MIXTURES, QUICK, close, random_prompts, tiny_hf

EXACT = 1e-12
PROMPTS = random_prompts(4, seed=1, shortest=6)
PARALLEL = "gpt_neox"
families = pytest.mark.parametrize(
    "family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
kept = cache(tiny_hf)  # hooks leave no trace, so one model of each family serves all tests


def vector(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def everywhere(ids):
    return tuple(range(len(ids)))


def sites_of(family):
    return [site for site in SITES if site != "neurons" or family not in MIXTURES]


def edit_of(kind, site, layer, tokens="all", **options):
    """An edit of head or neuron 1, or of the whole site, by a random value that fits."""
    index = 1 if site in ("heads", "neurons") else None
    return HookEdit(kind, site, layer, index, tokens=tokens, **options)


def width(hf, site):
    weight = at(at(hf, layout_of(hf).blocks)[0], layout_of(hf).out_proj).weight
    return {"heads": weight.numel() // 32 // 4, "neurons": 1}.get(site, 32)  # either way up


@families
def test_left_padding_changes_nothing(family):
    hf, longest = kept(family), max(map(len, PROMPTS))
    missing = [longest - len(ids) for ids in PROMPTS]
    mask = torch.tensor([[0] * n + [1] * (longest - n) for n in missing])
    padded = torch.tensor([[0] * n + ids for n, ids in zip(missing, PROMPTS, strict=True)])
    where = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        together = hf(padded, attention_mask=mask, position_ids=where, use_cache=False).logits
    for row, n, ids in zip(together, missing, PROMPTS, strict=True):
        assert close(row[n:], forward(hf, ids), EXACT)


@families
def test_the_stream_is_the_sum_of_what_is_added(family):
    hf, ids = kept(family), PROMPTS[0]
    found = activations(hf, ids)
    assert sorted(found) == sorted(sites_of(family))
    assert found["heads"].shape[:3] == (3, len(ids), 4)
    assert family in MIXTURES or found["neurons"].shape == (3, len(ids), 40)
    assert close(found["resid_attn"] + found["mlp_out"], found["resid_mlp"], EXACT)
    assert close(found["resid_mlp"][:-1] + found["attn_out"][1:], found["resid_attn"][1:], EXACT)


@families
def test_projections_are_what_the_weights_make_of_heads_and_neurons(family):
    hf, ids = kept(family), PROMPTS[0]
    found, (out, down), layout = activations(hf, ids), projections(hf, ids), layout_of(hf)
    for layer, block in enumerate(at(hf, layout.blocks)):
        with torch.no_grad():
            assert close(at(block, layout.out_proj)(found["heads"][layer].flatten(1)), out[layer], EXACT)
            if layout.down_proj is not None:
                assert close(at(block, layout.down_proj)(found["neurons"][layer]), down[layer], EXACT)
    normed = family in ("gemma2", "gemma3_text", "olmo2")
    assert close(out, found["attn_out"], EXACT) != normed
    assert close(down, found["mlp_out"], EXACT) != normed


@families
def test_without_edits_nothing_differs_in_a_bit(family):
    hf, ids = kept(family), PROMPTS[0]
    with torch.no_grad():
        plain = hf(torch.tensor([ids])).logits[0]
    assert torch.equal(forward(hf, ids), plain)
    forward(hf, ids, [edit_of("zero", "attn_out", 1)])
    assert torch.equal(forward(hf, ids), plain)


@families
def test_a_site_set_to_its_own_values_changes_nothing(family):
    hf, ids = kept(family), PROMPTS[1]
    found, plain = activations(hf, ids), forward(hf, ids)
    for site in sites_of(family):
        if site == "resid_attn" and family == PARALLEL:
            continue
        for layer in range(3):
            own = found[site][layer]
            value = own[:, 1] if site in ("heads", "neurons") else own
            assert close(forward(hf, ids, [edit_of("set", site, layer, everywhere(ids), value=value)]), plain, EXACT)


@families
def test_edits_act_from_their_token_on(family):
    hf, ids = kept(family), PROMPTS[0]
    plain = forward(hf, ids)
    for site in sites_of(family):
        wide = width(hf, site)
        for kind, value in (("zero", None), ("set", vector(wide)), ("add", vector(wide)), ("scale", 3.0)):
            if site == "resid_attn" and family == PARALLEL and kind != "add":
                continue
            got = forward(hf, ids, [edit_of(kind, site, 1, (3,), value=value)])
            assert torch.equal(got[:3], plain[:3]), (site, kind)
            assert not close(got[3:], plain[3:], 1e-6), (site, kind)
        twice = [edit_of("add", site, 1, value=vector(wide)), edit_of("add", site, 1, value=-vector(wide))]
        assert close(forward(hf, ids, twice), plain, EXACT)


@families
def test_the_stream_of_another_prompt_gives_its_logits(family):
    hf, ids = kept(family), PROMPTS[0]
    other = random_prompts(1, seed=9, shortest=len(ids), longest=len(ids))[0]
    found, wanted = activations(hf, other), forward(hf, other)
    for site in ("resid_attn", "resid_mlp") if family != PARALLEL else ("resid_mlp",):
        for layer in range(3):
            edit = edit_of("set", site, layer, everywhere(ids), value=found[site][layer])
            assert close(forward(hf, ids, [edit]), wanted, EXACT)


@families
def test_adding_before_the_sum_is_adding_to_it(family):
    hf, ids, v = kept(family), PROMPTS[0], vector(32)
    for layer in range(3):
        to_stream = forward(hf, ids, [edit_of("add", "resid_attn", layer, (0, -1), value=v)])
        assert close(forward(hf, ids, [edit_of("add", "attn_out", layer, (0, -1), value=v)]), to_stream, EXACT)
        to_end = forward(hf, ids, [edit_of("add", "resid_mlp", layer, (0, -1), value=v)])
        assert close(forward(hf, ids, [edit_of("add", "mlp_out", layer, (0, -1), value=v)]), to_end, EXACT)
        assert close(to_stream, to_end, 1e-6) == (family == PARALLEL)  # elsewhere the MLP reads what was added


@families
def test_the_skip_path_carries_an_edit_and_nothing_of_what_it_replaced(family):
    hf, ids, v = kept(family), PROMPTS[0], vector(32)
    broken = edit_of("set", "attn_out", 1, value=torch.full((32,), float("nan"), dtype=torch.float64))
    silent = edit_of("zero", "mlp_out", 1)
    at_end = forward(hf, ids, [edit_of("set", "resid_mlp", 1, value=v)])
    assert at_end.isfinite().all()
    if family != PARALLEL:
        assert torch.equal(forward(hf, ids, [broken, silent, edit_of("set", "resid_attn", 1, value=v)]), at_end)
    assert torch.equal(forward(hf, ids, [broken, edit_of("set", "resid_mlp", 1, value=v)]), at_end)


@families
def test_greedy_equals_cached_generation(family):
    hf, factor = kept(family), 0.6
    scaled = edit_of("scale", "resid_mlp", 1, value=factor)
    for ids in PROMPTS:
        row = torch.tensor([ids])
        options = {"attention_mask": torch.ones_like(row), "max_new_tokens": 8, "do_sample": False}
        assert greedy(hf, ids, steps=8, ends={2}) == hf.generate(row, **options)[0, len(ids) :].tolist()
        block = at(hf, layout_of(hf).blocks)[1]
        handle = block.register_forward_hook(lambda _, args, output: output * factor)
        cached = hf.generate(row, **options)[0, len(ids) :].tolist()
        handle.remove()
        assert greedy(hf, ids, [scaled], steps=8, ends={2}) == cached


def test_tokens_select_positions():
    chosen = {t: positions(t, 3, 5) for t in ("last", "prompt", "generated", "reply", "all", (0, -1), (-3,))}
    assert list(chosen.values()) == [[2], [0, 1, 2], [3, 4], [2, 3, 4], [0, 1, 2, 3, 4], [0, 2], [0]]
    assert positions("generated", 3, 3) == []
    with pytest.raises(AssertionError):
        positions((3,), 3, 5)


def test_values_for_tokens_dims_and_later():
    hf, ids, n = kept("llama"), PROMPTS[0], len(PROMPTS[0]) - 2
    v, w = vector(2), vector(2, seed=1)
    here = {"index": 1, "dims": (4, 0), "site": "heads", "layer": 1}
    first = HookEdit("add", value=v, tokens=(-1,), **here)
    seen = []
    with edited(hf, [HookEdit("add", value=v, later=w, tokens="reply", **here)], n):
        block = hf.model.layers[1].self_attn.o_proj
        handle = block.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].clone()))
        hf(torch.tensor([ids]), use_cache=False)
        handle.remove()
    moved = (seen[0] - activations(hf, ids)["heads"][1].flatten(1)).detach()
    expected = torch.zeros_like(moved)
    expected[n - 1, [16, 12]], expected[n:, [16, 12]] = v, w
    assert close(moved, expected, EXACT)
    pair = HookEdit("add", value=torch.stack([v, w]), tokens=(-1, 0), **here)
    apart = [first, HookEdit("add", value=w, tokens=(0,), **here)]
    assert torch.equal(forward(hf, ids, [pair]), forward(hf, ids, apart))
    neurons = HookEdit("set", "neurons", 1, 5, value=vector(2), tokens=(0, 2))
    apart = [HookEdit("set", "neurons", 1, 5, value=vector(2)[i], tokens=(t,)) for i, t in enumerate((0, 2))]
    assert torch.equal(forward(hf, ids, [neurons]), forward(hf, ids, apart))


def test_edits_keep_their_order():
    hf, ids, v = kept("llama"), PROMPTS[0], vector(32)
    put, wipe = edit_of("set", "mlp_out", 1, value=v), edit_of("zero", "mlp_out", 1)
    assert torch.equal(forward(hf, ids, [put, wipe]), forward(hf, ids, [wipe]))
    assert torch.equal(forward(hf, ids, [wipe, put]), forward(hf, ids, [put]))


def test_what_a_model_has_no_place_for_is_refused():
    with pytest.raises(AssertionError, match="parallel residual"):
        forward(kept(PARALLEL), PROMPTS[0], [edit_of("zero", "resid_attn", 1)])
    with pytest.raises(AssertionError, match="experts"):
        forward(kept("mixtral"), PROMPTS[0], [edit_of("zero", "neurons", 1)])
