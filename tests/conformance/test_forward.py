"""Edits in one pass over a padded batch, against plain hooks on every row alone."""

from functools import cache

import pytest
import torch

import emotrace as et
from emotrace.errors import PlanError
from tests.conformance.cases import (
    CHOICES,
    FAMILY,
    KINDS,
    LONG,
    PARALLEL,
    PROMPTS,
    SOURCES,
    SPAN,
    TOKENS,
    Case,
    can,
    case,
    grid,
    joined,
    keys_of,
    many,
    named,
    part,
    plain,
    sources,
    statistics,
    traced,
)
from tests.conformance.hooks import SITES, HookEdit, forward
from tests.tiny import MIXTURES, close, tiny_model, torch_model

EXACT = 1e-12  # also where RMSNorm rounds to float32: rows alone and rows of a batch are rounded alike
families = pytest.mark.parametrize("family", FAMILY)
long = pytest.mark.parametrize("family", LONG)


@cache
def unedited(family):
    return [forward(plain(family), ids) for ids in PROMPTS]


def agree(family, done, got, *, changes=True):
    """Every row agrees with the hooks at every token, and differs from the row without edits."""
    for ids, edits, logits, before in zip(PROMPTS, done.rows, got, unedited(family), strict=True):
        assert logits.isfinite().all()
        assert close(logits, forward(plain(family), ids, edits), EXACT), (ids, edits)
        assert close(logits, before, 1e-4) != (changes and bool(edits)), (ids, edits)


@pytest.mark.parametrize(("family", "kind", "site", "choices"), grid(every=1, fast_every=2))
def test_every_edit_at_every_site(family, kind, site, choices):
    for turn, name in enumerate(choices):
        done = case(family, kind, site, CHOICES[name], later="later" in name, turn=turn + SITES.index(site))
        agree(family, done, traced(named(family), done.plan), changes=name != "generated")


@long
def test_parts_of_components(family):
    for turn, site in enumerate(s for s in SITES if s != "neurons"):
        for kind in (k for k in KINDS if k != "mean" and can(family, k, site)):
            done = case(family, kind, site, TOKENS[turn], dims=(5, 0, 3))
            agree(family, done, traced(named(family), done.plan))


@long
def test_values_for_each_row(family):
    choices = ("last", "all", (1, -1, -3), SPAN)
    for turn, (kind, site) in enumerate((k, s) for s in SITES for k in ("add", "set") if can(family, k, s)):
        for tokens in (choices[turn % 4], choices[(turn + 1) % 4]):
            done = case(family, kind, site, tokens, per_row=True)
            agree(family, done, traced(named(family), done.plan))
        if site != "neurons":
            done = case(family, kind, site, (0, -2), per_row=True, dims=(3, 1))
            agree(family, done, traced(named(family), done.plan))


@families
def test_many_edits_keep_their_order(family):
    cases = many(family)
    done = joined(cases)
    agree(family, done, traced(named(family), done.plan))
    backwards = joined(cases[::-1])
    agree(family, backwards, traced(named(family).nn, backwards.plan))  # the user's own nnsight model
    assert not close(*(forward(plain(family), PROMPTS[0], c.rows[0]) for c in (done, backwards)), 1e-4)


@families
def test_a_plan_for_each_row(family):
    cases, none = many(family), Case(et.Plan(), ((), (), ()))
    first, second = joined(cases[::2]), joined(cases[1::2])
    steered = case(family, "add", "heads", "last", layer=1)
    for mixed in ([first, second, none], [none, steered, first], [second, none, second]):
        rows = tuple(c.rows[r] for r, c in enumerate(mixed))
        done = Case(et.Plan(), rows)
        agree(family, done, traced(named(family), [c.plan for c in mixed]))


@families
def test_patches_from_one_prompt_and_by_default_at_the_tokens_recorded(family):
    short = SOURCES[0][:4]
    for site in (s for s in SITES if can(family, "patch", s)):
        keys = keys_of(site, 1)
        found = et.record(named(family), [SOURCES[0], SOURCES[0][::-1], SOURCES[0]], tokens=(0, -2), **{site: keys})
        for activations, tokens in ((found, (0, -2)), (et.record(named(family), [short], **{site: keys}), None)):
            plan = et.patch(activations, tokens=tokens)
            where = tokens or (-4, -3, -2, -1)
            rows = []
            for row in range(3):
                values = [activations.of(site, key) for key in keys]
                values = [v[row] if tokens else v for v in values]
                edits = [(k if isinstance(k, tuple) else (k, None), v) for k, v in zip(keys, values, strict=True)]
                rows.append(tuple(HookEdit("set", site, *k, value=v, tokens=where) for k, v in edits))
            agree(family, Case(plan, tuple(rows)), traced(named(family), plan))
        assert close(found.of(site, keys[0])[0], part(sources(family)[0][site], keys[0])[[0, -2]], EXACT)


@long
def test_padding_on_the_right(family):
    for turn, site in enumerate(SITES):
        for tokens in TOKENS[turn % 2 :: 2]:
            kind = KINDS[turn] if can(family, KINDS[turn], site) else "add"
            if can(family, kind, site):
                done = case(family, kind, site, tokens)
                agree(family, done, traced(named(family), done.plan, right=True))


@long
def test_without_a_mask_padding_is_on_the_left(family):
    for site in (s for s in SITES if can(family, "add", s)):
        for tokens in ("last", "all", (-1, -4)):
            done = case(family, "add", site, tokens)
            agree(family, done, traced(named(family), done.plan, masked=False))


@pytest.mark.parametrize("site", SITES)
def test_a_value_that_is_replaced_leaves_nothing(site):
    """Not even NaN: weights of block 1 that write the site are broken, and zeroing or setting it mends the pass."""
    model = tiny_model("llama")
    block = torch_model(model).model.layers[1]
    broken = {"heads": block.self_attn.v_proj, "attn_out": block.self_attn.o_proj, "resid_attn": block.self_attn.o_proj}
    broken |= {"neurons": block.mlp.up_proj, "mlp_out": block.mlp.down_proj, "resid_mlp": block.mlp.down_proj}
    keys = {"heads": [(1, h) for h in range(4)], "neurons": [(1, n) for n in range(40)]}.get(site, [1])
    with torch.no_grad():
        broken[site].weight.fill_(float("nan"))
    assert not all(logits.isfinite().all() for logits in traced(model, et.Plan()))
    for kind in ("zero", "set"):
        done = case("llama", kind, site, "all", keys=keys)
        agree("llama", done, traced(model, done.plan))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "add"])
def test_a_parallel_residual_takes_additions_only(kind):
    with pytest.raises(PlanError, match=r"gpt_neox.*parallel"):
        traced(named(PARALLEL), case(PARALLEL, kind, "resid_attn", "last").plan)


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_have_no_neurons(family):
    value = {(1, 0): torch.tensor(1.0)}
    for plan in (et.zero(neurons=[(1, 0)]), et.scale(2.0, neurons=[(1, 0)]), et.set(value, "neurons")):
        with pytest.raises(PlanError, match=f"{family} is a mixture of experts"):
            traced(named(family), plan)
        with pytest.raises(PlanError, match=f"{family} is a mixture of experts"):
            et.generate_replies(named(family), PROMPTS, plan, max_new_tokens=2)
    with pytest.raises(PlanError, match=f"{family} is a mixture of experts"):
        et.record(named(family), PROMPTS, neurons=[(1, 0)])
    with pytest.raises(PlanError, match="outside the statistics"):
        et.mean(statistics(family), neurons=[(1, 0)])
    assert statistics(family).last["neurons"].shape == (2, 3, 0)
