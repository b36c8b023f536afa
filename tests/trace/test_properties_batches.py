"""Relations between a batch and its rows, on random plans: order, padding, a plan or values for each row, spans."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import emotrace as et
from emotrace.trace.generate import generate_replies
from tests.tiny import close, random_prompts
from tests.trace.random_plans import (
    INDICES,
    NAMES,
    SHORTEST,
    edits,
    families,
    few,
    logits,
    many,
    model_of,
    padded,
    plans,
    some,
    vector,
)

EXACT = 1e-12
data = st.data()
PROMPTS = random_prompts(4, seed=6, shortest=SHORTEST, longest=9)
LENGTHS = [len(ids) for ids in PROMPTS]


def left(prompts):
    longest = max(map(len, prompts))
    return padded(prompts, [longest - len(ids) for ids in prompts], [0] * len(prompts))[:2]


def alone(model, prompts, given_plans):
    """Logits of each row in a pass of its own."""
    return [logits(model, [ids], plan)[0] for ids, plan in zip(prompts, given_plans, strict=True)]


def agree(batched, mask, rows):
    return all(close(row[kept.bool()], single, EXACT) for row, kept, single in zip(batched, mask, rows, strict=True))


@some
@given(data, families)
def test_a_plan_for_each_row_equals_each_row_alone(data, family):
    model = model_of(family)
    each = data.draw(st.lists(plans(family), min_size=4, max_size=4))
    ids, mask = left(PROMPTS)
    together = logits(model, ids, each, mask)
    assert agree(together, mask, alone(model, PROMPTS, each))
    order = data.draw(st.permutations(range(4)))
    moved = logits(model, ids[list(order)], [each[row] for row in order], mask[list(order)])
    assert close(moved, together[list(order)], EXACT), "the order of the rows is irrelevant"


@some
@given(data, families)
def test_padding_is_irrelevant_on_either_side_and_in_any_amount(data, family):
    model, plan = model_of(family), data.draw(plans(family))
    rows = alone(model, PROMPTS, [plan] * 4)
    more = st.lists(st.integers(0, 3), min_size=4, max_size=4)
    before, after = data.draw(more), data.draw(more)
    filler = data.draw(st.integers(0, 63))
    longest = max(LENGTHS)
    short = [longest - n for n in LENGTHS]
    on_the_left = padded(PROMPTS, [before[0] + missing for missing in short], [0] * 4, filler)
    on_the_right = padded(PROMPTS, [0] * 4, after, filler)
    on_both = padded(PROMPTS, before, after, filler)
    for name, (ids, mask, positions), explicit in (
        ("left", on_the_left, False),
        ("right", on_the_right, False),  # unpadded positions are those of the mask: nothing has to be given
        ("both", on_both, True),
    ):
        options = {"position_ids": positions} if explicit else {}
        assert agree(logits(model, ids, plan, mask, **options), mask, rows), (name, plan)


@some
@given(data, families)
def test_values_for_each_row_equal_a_plan_for_each_row(data, family):
    model = model_of(family)
    drawn = data.draw(edits(family, kinds=("set", "add")))
    tokens = drawn.tokens
    count = len(tokens) if isinstance(tokens, tuple) and data.draw(st.booleans()) else 1
    shape = () if drawn.site == "neurons" else (len(drawn.dims or range(model.sizes.shape(drawn.site)[1])),)
    values = vector(4, count, *shape, seed=data.draw(st.integers(0, 99)))
    constructor, options = getattr(et, drawn.kind), {"dims": drawn.dims, "tokens": tokens}
    together = constructor({drawn.component: values}, drawn.site, **options)
    each = [constructor({drawn.component: v[0] if count == 1 else v}, drawn.site, **options) for v in values]
    rest = data.draw(plans(family, most=1))
    ids, mask = left(PROMPTS)
    found = logits(model, ids, rest + together, mask)
    assert torch.equal(found, logits(model, ids, [rest + one for one in each], mask))
    assert agree(found, mask, alone(model, PROMPTS, [rest + one for one in each]))


@some
@given(data, families, st.integers(1, 2))
def test_a_span_is_the_indices_that_it_resolves_to(data, family, count):
    model, words = model_of(family), (5, 6)  # "user assistant", which the random prompts do not hold
    prompts = [[*words, *ids] if row % 2 else [*ids, *words] for row, ids in enumerate(PROMPTS)]
    at = [range(count) if row % 2 else range(n, n + count) for row, n in enumerate(LENGTHS)]
    drawn = data.draw(edits(family, tokens=st.just(et.Span("user assistant"[: 4 if count == 1 else None]))))
    each = [dataclasses.replace(drawn, tokens=tuple(where)).plan for where in at]
    ids, mask = left(prompts)
    assert torch.equal(logits(model, ids, drawn.plan, mask), logits(model, ids, each, mask))
    spans = generate_replies(model, prompts, drawn.plan, max_new_tokens=2)
    assert spans == generate_replies(model, prompts, each, max_new_tokens=2)


def replies_equal_those_of_each_row_alone(data, family):
    model, tokens = model_of(family), st.one_of(st.sampled_from(NAMES), st.sampled_from(INDICES))
    each = data.draw(st.lists(plans(family, tokens=tokens), min_size=4, max_size=4))
    together = generate_replies(model, PROMPTS, each, max_new_tokens=5)
    for prompt, plan, reply in zip(PROMPTS, each, together, strict=True):
        single = generate_replies(model, [prompt], plan, max_new_tokens=5)[0]
        assert reply == single
        assert reply.edited == single.edited
    cut = generate_replies(model, PROMPTS, each, max_new_tokens=5, batch_tokens=30)
    assert cut == together, "the size of batches is irrelevant"
    assert [reply.edited for reply in cut] == [reply.edited for reply in together]


@few
@given(data, families)
def test_replies_under_a_plan_for_each_row_equal_each_row_alone(data, family):
    replies_equal_those_of_each_row_alone(data, family)


@pytest.mark.slow
@many
@given(data, families)
def test_replies_under_a_plan_for_each_row_equal_each_row_alone_at_length(data, family):
    replies_equal_those_of_each_row_alone(data, family)


@few
@given(data, families)
def test_an_invoke_is_a_batch_of_its_own(data, family):
    model = model_of(family)
    first, second = data.draw(plans(family)), data.draw(plans(family))
    third = data.draw(st.lists(plans(family), min_size=2, max_size=2))
    prompts = [ids[:SHORTEST] for ids in PROMPTS]
    ids, mask = torch.tensor(prompts), torch.ones(2, SHORTEST, dtype=torch.long)
    with model.trace(use_cache=False) as tracer:
        with tracer.invoke(ids[:1]):
            with torch.no_grad():
                et.apply(model, first, attention_mask=mask[:1])
                one = model.output.logits.clone().save()
        with tracer.invoke(ids[1:2]):
            with torch.no_grad():
                et.apply(model, second, attention_mask=mask[:1])
                two = model.output.logits.clone().save()
        with tracer.invoke(ids[2:]):
            with torch.no_grad():
                et.apply(model, third, attention_mask=mask)
                rest = model.output.logits.clone().save()
    rows = alone(model, prompts, [first, second, *third])
    assert agree([*one, *two, *rest], torch.ones(4, SHORTEST), rows)


def test_invokes_of_different_lengths_are_padded_on_the_left():
    """The batch is as wide as its longest invoke, so an invoke's own mask would not fit; indices from the right do."""
    model = model_of("llama")
    prompts = [[7, 8, 9, 10, 11], [12, 13, 14]]
    plan = et.zero(heads=[(0, 1)], tokens=(-2,)) + et.add({1: vector(32)}, "mlp_out", tokens="last")
    with model.trace(use_cache=False) as tracer:
        with tracer.invoke(torch.tensor(prompts[:1])):
            with torch.no_grad():
                et.apply(model, plan)
                one = model.output.logits.clone().save()
        with tracer.invoke(torch.tensor(prompts[1:])):
            with torch.no_grad():
                et.apply(model, plan)
                two = model.output.logits.clone().save()
    rows = alone(model, prompts, [plan, plan])
    assert close(one[0], rows[0], EXACT)
    assert close(two[0, -3:], rows[1], EXACT)
