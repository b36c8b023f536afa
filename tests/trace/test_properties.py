"""Relations that must hold for any plan in a forward pass, on random plans: what edits do and how they combine."""

import dataclasses

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import emotrace as et
from emotrace.trace.sites import COMPONENT_SITES, place, value
from tests.conformance.hooks import forward
from tests.tiny import close, random_prompts, torch_model
from tests.trace.random_plans import (
    DRAWN,
    INDICES,
    SHORTEST,
    dtypes,
    edits,
    families,
    few,
    logits,
    many,
    model_of,
    places,
    plan_of,
    plans,
    sites_of,
    some,
    tokens_in_a_prompt,
    vector,
)

EXACT = 1e-12
data = st.data()
PROMPT = random_prompts(1, seed=4, shortest=SHORTEST, longest=SHORTEST)[0]
EQUAL = random_prompts(3, seed=5, shortest=6, longest=6)
"""Prompts of one length: a batch of them is computed alike by every function, to the last bit."""


def named(site, layer, index):
    return {site: [layer if index is None else (layer, index)]}


@some
@given(data, families)
def test_edits_of_different_places_commute(data, family):
    first, second = data.draw(edits(family)), data.draw(edits(family))
    assume((first.site, first.layer) != (second.site, second.layer))
    model = model_of(family)
    one, other = first.plan + second.plan, second.plan + first.plan
    assert torch.equal(logits(model, [PROMPT], one), logits(model, [PROMPT], other))


def same_as_one_after_the_other(data, family):
    """Edits of one component against plain hooks that make them in turn."""
    where, common = data.draw(places(family)), st.just(data.draw(tokens_in_a_prompt))
    # mostly at the same tokens, where edits are folded into one
    drawn = data.draw(
        st.lists(edits(family, place=where, tokens=common | common | tokens_in_a_prompt), min_size=2, max_size=4)
    )
    model = model_of(family)
    expected = forward(torch_model(model), PROMPT, [one.hook for one in drawn])
    assert close(logits(model, [PROMPT], plan_of(drawn))[0], expected, EXACT), drawn


@some
@given(data, families)
def test_edits_of_one_place_are_made_in_their_order(data, family):
    same_as_one_after_the_other(data, family)


@pytest.mark.slow
@many
@given(data, families)
def test_edits_of_one_place_are_made_in_their_order_at_length(data, family):
    same_as_one_after_the_other(data, family)


def test_order_within_a_place_matters():
    model, v = model_of("llama"), vector(12)
    more, wiped = et.add({(1, 2): v}, "heads", tokens="all"), et.zero(heads=[(1, 2)])
    assert not close(logits(model, [PROMPT], more + wiped), logits(model, [PROMPT], wiped + more), 1e-3)
    first = et.add({(1, 2): v}, "heads", tokens="last") + wiped + et.add({(1, 2): -v}, "heads", tokens="last")
    assert not close(logits(model, [PROMPT], first), logits(model, [PROMPT], wiped), 1e-3), "tokens of other names"


@some
@given(data, families)
def test_adding_and_taking_away_is_no_edit(data, family):
    there = data.draw(edits(family, kinds=("add",)))
    back = dataclasses.replace(there, value=-there.value)
    # at other tokens, so that the three cannot be folded into one
    between = data.draw(edits(family, kinds=("add",), place=(there.site, there.layer, there.index)))
    model = model_of(family)
    plain = logits(model, [PROMPT], et.Plan())
    assert close(logits(model, [PROMPT], there.plan + back.plan), plain, EXACT)
    expected = logits(model, [PROMPT], between.plan)
    assert close(logits(model, [PROMPT], there.plan + between.plan + back.plan), expected, EXACT)


@some
@given(data, families, dtypes)
def test_a_factor_of_zero_is_zero_bit_for_bit(data, family, dtype):
    site, layer, index = data.draw(places(family, settable=True))
    tokens = data.draw(tokens_in_a_prompt)
    model = model_of(family, dtype=dtype)
    gone = et.zero(**named(site, layer, index), tokens=tokens)
    for factor in (0, 0.0, -0.0):
        plan = et.scale(factor, **named(site, layer, index), tokens=tokens)
        assert torch.equal(logits(model, [PROMPT], plan), logits(model, [PROMPT], gone))


@some
@given(data, families, dtypes)
def test_strength_zero_and_factor_one_are_no_edit_bit_for_bit(data, family, dtype):
    site, layer, index = data.draw(places(family))
    tokens = data.draw(tokens_in_a_prompt)
    model = model_of(family, dtype=dtype)
    shape = () if site == "neurons" else (model.sizes.shape(site)[1],)
    key = layer if index is None else (layer, index)
    plain = logits(model, EQUAL, et.Plan())
    later = {"later": {key: vector(*shape, seed=1)}} if tokens in ("reply", "all") else {}
    nothing = et.add({key: vector(*shape)}, site, strength=0.0, tokens=tokens, **later)
    assert torch.equal(logits(model, EQUAL, nothing), plain)
    assert torch.equal(logits(model, EQUAL, et.scale(1.0, **named(site, layer, index), tokens=tokens)), plain)
    beside = [nothing, et.zero(mlp_out=[2]), et.Plan()]
    assert torch.equal(logits(model, EQUAL, beside)[[0, 2]], plain[[0, 2]]), "nor in a row beside one that has an edit"


@pytest.mark.parametrize("family", DRAWN)
@few
@given(data, dtypes)
def test_a_patch_of_its_own_activations_is_no_edit_bit_for_bit(family, data, dtype):
    model = model_of(family, dtype=dtype)
    tokens = data.draw(st.sampled_from(("last", "prompt", *INDICES)))
    plain = logits(model, EQUAL, et.Plan())
    components = {
        site: [(layer, 1) if site in COMPONENT_SITES else layer for layer in range(3)]
        for site in sites_of(family, settable=True)
    }
    seen = et.record(model, EQUAL, tokens=tokens, **components)
    assert torch.equal(logits(model, EQUAL, et.patch(seen)), plain), "every site at once"
    for site, keys in components.items():
        assert torch.equal(logits(model, EQUAL, et.patch(seen, **{site: keys})), plain), site
    dims = tuple(data.draw(st.lists(st.integers(0, 7), min_size=1, unique=True)))
    assert torch.equal(logits(model, EQUAL, et.patch(seen, heads=components["heads"], dims=dims)), plain)


@some
@given(data, families, st.sampled_from((float("nan"), float("inf"), -float("inf"))))
def test_what_was_not_finite_is_gone_after_zero_and_set(data, family, broken):
    where = data.draw(places(family, settable=True))
    kind = data.draw(st.sampled_from(("zero", "set")))
    drawn = data.draw(edits(family, place=where, kinds=(kind,), tokens=st.just("all")))
    model, (site, layer, index) = model_of(family), where
    ids = torch.tensor(EQUAL)
    wide = model.sizes.shape(site)[1]
    columns = [wide * (index or 0) + d for d in (drawn.dims or range(wide))]

    def passed(filler):
        with model.trace(ids, use_cache=False):
            with torch.no_grad():
                value(place(model, site, layer))[:, :, columns] = filler
                et.apply(model, drawn.plan)
                found = model.output.logits.clone().save()
        return found

    assert bool(passed(broken).isfinite().all())
    assert torch.equal(passed(broken), passed(0.0))


@some
@given(data, families)
def test_indices_from_the_left_are_those_from_the_right(data, family):
    drawn = data.draw(edits(family, tokens=st.sampled_from(INDICES)))
    model = model_of(family)
    expected = logits(model, [PROMPT], drawn.plan)
    n = len(PROMPT)
    for turned in (tuple(i % n for i in drawn.tokens), tuple(i % n - n for i in drawn.tokens)):
        same = dataclasses.replace(drawn, tokens=turned)
        assert torch.equal(logits(model, [PROMPT], same.plan), expected)


@few
@given(data, families)
def test_a_plan_survives_its_file(tmp_path_factory, data, family):
    plan = data.draw(plans(family, tokens=st.one_of(tokens_in_a_prompt, st.just(et.Span("w", occurrence=1)))))
    model = model_of(family)
    first, after = ({(0, 1): vector(model.sizes.head_width, seed=seed)} for seed in (1, 2))
    plan = plan + et.add(first, "heads", later=after) + et.Plan((), (model.fingerprint,))
    read = et.Plan.load(plan.save(tmp_path_factory.mktemp("plans") / "p.safetensors"))
    assert read.made_for == plan.made_for
    assert len(read.edits) == len(plan.edits)
    for mine, kept in zip(plan.edits, read.edits, strict=True):
        for name in ("site", "layer", "index", "dims", "scale", "tokens"):
            assert getattr(kept, name) == getattr(mine, name)
            assert type(getattr(kept, name)) is type(getattr(mine, name))
        for name in ("add", "add_later"):
            written, found = getattr(mine, name), getattr(kept, name)
            assert (written is None) == (found is None)
            assert written is None or (written.dtype == found.dtype and torch.equal(written, found))
    assert torch.equal(logits(model, [PROMPT], read), logits(model, [PROMPT], plan))
