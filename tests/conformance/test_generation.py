"""Edited greedy replies of padded batches with a cache, against plain hooks on full passes over every row alone."""

from functools import cache

import nnsight
import pytest
import torch

import emotrace as et
from tests.conformance.cases import (
    CHOICES,
    FAMILY,
    LONG,
    PROMPTS,
    SPAN,
    Case,
    can,
    case,
    grid,
    joined,
    many,
    named,
    padded,
    plain,
)
from tests.conformance.hooks import SITES, greedy
from tests.tiny import tiny_model, torch_model

STEPS = 4
END = 2
PAIR = PROMPTS[:2]
NONE = Case(et.Plan(), ((), (), ()))
families = pytest.mark.parametrize("family", FAMILY)
long = pytest.mark.parametrize("family", LONG)


@cache
def unedited(family, row):
    return greedy(plain(family), PROMPTS[row], steps=STEPS, ends={END})


def expected(family, done, *, steps=STEPS, ends=(END,)):
    """Of each row that ``done`` has edits for."""
    hf, prompts = plain(family), PROMPTS[: len(done.rows)]
    return [greedy(hf, ids, edits, steps, ends) for ids, edits in zip(prompts, done.rows, strict=True)]


def agree(done, replies, wanted, ends=(END,)):
    """Token for token, and every operation counted once for each pass that its tokens are in."""
    for row, (reply, new) in enumerate(zip(replies, wanted, strict=True)):
        stopped = new[-1] in ends
        assert reply.ids == tuple(new[:-1] if stopped else new), row
        assert reply.stopped == stopped
        assert reply.edited == done.contact(row, len(new)), row


@pytest.mark.parametrize(("family", "kind", "site", "choices"), grid(every=2, fast_every=3))
def test_every_edit_at_every_site(family, kind, site, choices):
    changed = set()
    for turn, name in enumerate(choices):
        done = case(
            family, kind, site, CHOICES[name], later="later" in name, turn=turn + SITES.index(site), prompts=PAIR
        )
        wanted = expected(family, done)
        agree(done, et.generate_replies(named(family), PAIR, done.plan, max_new_tokens=STEPS), wanted)
        if any(new != unedited(family, row) for row, new in enumerate(wanted)):
            changed.add(name)
    assert changed or len(choices) == 1  # one choice alone may say the same by chance


@long
def test_later_values_are_for_tokens_fed_back(family):
    """What is added there shows in the text, so that a case with it is one."""
    for site in (s for s in SITES if can(family, "add", s)):
        first, both = (case(family, "add", site, "reply", later=later, prompts=PAIR) for later in (False, True))
        assert expected(family, first) != expected(family, both)
        agree(both, et.generate_replies(named(family), PAIR, both.plan, max_new_tokens=STEPS), expected(family, both))


@families
def test_replies_that_end(family):
    """Rows end at different steps, all of them early or one of them alone."""
    edits = [
        case(family, "add", "heads", "reply", later=True, layer=0),
        case(family, "scale", "mlp_out", "generated", layer=1),
        case(family, "set", "attn_out", (1, -1), layer=1, dims=(3, 4)),
        case(family, "add", "resid_mlp", "all", layer=0),
    ]
    done = joined(edits)
    whole = expected(family, done, steps=6, ends=())
    for ends in ({new[row + 1] for row, new in enumerate(whole)}, {whole[0][2]}):
        model = tiny_model(family)
        torch_model(model).generation_config.eos_token_id = sorted(ends)
        wanted = expected(family, done, steps=6, ends=ends)
        assert min(map(len, wanted)) < 6
        agree(done, et.generate_replies(model, PROMPTS, done.plan, max_new_tokens=6), wanted, ends)


@long
def test_values_for_each_row(family):
    """Also of batches that take the rows apart and in another order."""
    choices = {"heads": "all", "attn_out": (0, -2), "resid_attn": "reply", "neurons": "last", "mlp_out": SPAN}
    for turn, site in enumerate(s for s in SITES if can(family, "add", s)):
        kind = ("add", "set")[turn % 2] if can(family, "set", site) else "add"
        done = case(family, kind, site, choices.get(site, (1, -1, -3)), per_row=True)
        wanted = expected(family, done)
        for budget in (1000, 2 * (len(PROMPTS[1]) + STEPS), 1):
            options = {"max_new_tokens": STEPS, "batch_tokens": budget}
            agree(done, et.generate_replies(named(family), PROMPTS, done.plan, **options), wanted)


@long
def test_many_edits_and_a_plan_for_each_row(family):
    choices = ["reply", "all", (1, -1, -3), "generated", SPAN, "last"]
    cases = many(family, choices=choices)
    both = joined(cases)
    first, second = joined(cases[::2]), joined(cases[1::2])
    for mixed in ([both] * 3, [first, second, NONE], [NONE, first, both]):
        done = Case(et.Plan(), tuple(c.rows[r] for r, c in enumerate(mixed)))
        wanted = expected(family, done)
        for plan, budget in (([c.plan for c in mixed], 1000), ([c.plan for c in mixed], 1), (both.plan, 1000)):
            if isinstance(plan, list) or mixed[0] is both:
                options = {"max_new_tokens": STEPS, "batch_tokens": budget}
                agree(done, et.generate_replies(named(family), PROMPTS, plan, **options), wanted)


@long
def test_a_loop_of_the_users_own(family):
    """The edits made by :func:`emotrace.apply` in each step, and what it returns compared with what was declared."""
    cases = many(family, choices=["reply", "all", (1, -1, -3), "generated", SPAN, "last"])
    mixed = [joined(cases), joined(cases[::2]), NONE]
    model, (ids, mask) = named(family), padded(PROMPTS)
    for plan, done in (
        (mixed[0].plan, mixed[0]),
        ([c.plan for c in mixed], Case(et.Plan(), tuple(c.rows[r] for r, c in enumerate(mixed)))),
    ):
        given = {"attention_mask": mask, "input_ids": ids}
        with model.generate(max_new_tokens=STEPS, do_sample=False, eos_token_id=None, pad_token_id=0) as tracer:
            with tracer.invoke(ids, attention_mask=mask):
                touched = nnsight.save([])  # without torch.no_grad: generate enters it first and would leave it first
                for step in tracer.iter[:STEPS]:
                    touched.append(et.apply(model, plan, step=step, **given))
            with tracer.invoke():
                result = tracer.result.save()
        assert result[:, ids.shape[1] :].tolist() == expected(family, done, ends=())
        hits = et.check_contact(model, plan, list(touched), [STEPS] * 3, **given)
        assert hits == [done.contact(row, STEPS) for row in range(3)]


@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_stay_as_they_were(enabled, steps):
    """Whether the caller's tensors keep a graph is the caller's business, after a steered reply too."""
    plan = et.zero(heads=[(1, 1)], tokens="reply")
    with torch.set_grad_enabled(enabled):
        for given in (plan, [plan, plan, et.Plan()], None):
            et.generate_replies(named("llama"), PROMPTS, given, max_new_tokens=steps)
            assert torch.is_grad_enabled() == enabled
