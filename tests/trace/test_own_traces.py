"""`apply` in the user's own traces: nothing leaks into the next one, sessions, loops over steps and their proof."""

import nnsight
import pytest
import torch

import emotrace as et
from emotrace.errors import EditMissed, PlanError
from tests.tiny import close, random_prompts, tiny_hf, tiny_tokenizer
from tests.trace.random_plans import logits, model_of, padded, vector

PROMPTS = random_prompts(3, seed=1, shortest=5)
LONGEST = max(map(len, PROMPTS))
IDS, MASK, _ = padded(PROMPTS, [LONGEST - len(ids) for ids in PROMPTS], [0, 0, 0])
STEPS = 5
STRONG = et.add({(1, 2): 3 * vector(12)}, "heads", later={(1, 2): 3 * vector(12, seed=1)}) + et.zero(mlp_out=[0])
EACH = [STRONG, et.Plan(), et.scale(2.0, neurons=[(0, 3)], tokens="generated") + et.zero(heads=[(2, 1)], tokens=(0,))]


@pytest.fixture(autouse=True)
def _gradients_on():
    torch.set_grad_enabled(True)
    yield
    torch.set_grad_enabled(True)


def loop(model, plan, *, steps=STEPS, passes_claimed=None):
    """The user's own loop: new ids ``[B, STEPS]``, and the hits that `check_contact` proves.

    transformers generates without gradients, so the block needs no `torch.no_grad()`.
    """
    options = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with model.generate(**options) as tracer:
        with tracer.invoke(IDS, attention_mask=MASK):
            touched = nnsight.save([])
            for step in tracer.iter[:steps]:
                touched.append(et.apply(model, plan, step=step, attention_mask=MASK, input_ids=IDS))
        with tracer.invoke():
            result = tracer.result.save()
    given = {"attention_mask": MASK, "input_ids": IDS}
    hits = et.check_contact(model, plan, list(touched), passes_claimed or [STEPS] * 3, **given)
    return result[:, LONGEST:].tolist(), hits


def by_the_library(plan):
    model = et.load(tiny_hf(), tokenizer=tiny_tokenizer())
    model.__dict__["end_of_text"] = ()  # no token ends a reply, as in the loop
    model.nn._module.generation_config.eos_token_id = None
    replies = et.generate_replies(model, PROMPTS, plan, max_new_tokens=STEPS)
    return [list(reply.ids) for reply in replies], [reply.edited for reply in replies]


@pytest.mark.parametrize("plan", [STRONG, EACH, et.Plan(), et.zero(heads=[(0, 1)], tokens=et.Span("w", 0))], ids=str)
def test_a_loop_of_ones_own_generates_what_the_library_does(plan):
    assert loop(model_of("llama"), plan) == by_the_library(plan)


def test_a_loop_that_is_too_short_is_told():
    with pytest.raises(EditMissed, match=r"^edit of mlp_out in layer 0 .* 2 of 5 passes of row 0, not \[2, 3, 4\]"):
        loop(model_of("llama"), STRONG, steps=2)
    ids, hits = loop(model_of("llama"), STRONG, steps=2, passes_claimed=[2, 2, 1])
    assert len(ids) == 3
    assert hits == [2 + 2, 2 + 2, 1 + 1], "rows whose text ended before are not missed"


def test_a_session_holds_traces_with_and_without_edits():
    model = model_of("llama")
    plain, edited = logits(model, IDS, et.Plan(), MASK), logits(model, IDS, STRONG, MASK)
    with model.session():
        with model.trace(IDS, attention_mask=MASK, use_cache=False):
            with torch.no_grad():
                et.apply(model, STRONG, attention_mask=MASK)
                own = model.blocks[1].output.clone()
                first = model.output.logits.clone().save()
        with model.trace(IDS, attention_mask=MASK, use_cache=False):
            with torch.no_grad():
                et.apply(model, et.Plan(), attention_mask=MASK)
                second = model.output.logits.clone().save()
        with model.trace(IDS, attention_mask=MASK, use_cache=False):
            with torch.no_grad():
                model.blocks[1].output[:] = own  # a value of an earlier trace, never saved
                third = model.output.logits.clone().save()
    assert torch.equal(first, edited)
    assert torch.equal(second, plain)
    assert torch.equal(third, edited)


def fails_after_an_edit(model):
    with model.trace(IDS, attention_mask=MASK):
        with torch.no_grad():
            et.apply(model, STRONG)
            raise RuntimeError("deliberate")


def fails_between_edits(model):
    with model.trace(IDS, attention_mask=MASK):
        with torch.no_grad():
            et.apply(model, et.zero(heads=[(0, 1)]))
            et.apply(model, et.zero(heads=[(0, 9)]))


def fails_in_the_middle_of_a_plan(model):
    """Without a mask, the width of the batch is known only when the pass has begun."""
    with model.trace(IDS, attention_mask=MASK):
        with torch.no_grad():
            et.apply(model, et.zero(heads=[(0, 1)]) + et.zero(heads=[(2, 1)], tokens=(-50,)))


def fails_in_the_model(model):
    with model.trace(torch.tensor([[9999]])):
        with torch.no_grad():
            et.apply(model, STRONG)


def fails_out_of_order(model):
    with model.trace(IDS, attention_mask=MASK):
        with torch.no_grad():
            et.apply(model, et.zero(mlp_out=[2]))
            et.apply(model, et.zero(heads=[(0, 1)]))


def fails_while_generating(model):
    with model.generate(max_new_tokens=STEPS, do_sample=False, pad_token_id=0) as tracer:
        with tracer.invoke(IDS, attention_mask=MASK):
            for step in tracer.iter[:STEPS]:
                et.apply(model, STRONG if step < 2 else et.zero(heads=[(7, 1)]), step=step)


def misses(model):
    loop(model, STRONG, steps=2)


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (fails_after_an_edit, RuntimeError, "deliberate"),
        (fails_between_edits, PlanError, "components go from 0 to 3"),
        (fails_in_the_middle_of_a_plan, PlanError, "lie outside the prompt"),
        (fails_in_the_model, IndexError, "out of range"),
        (fails_out_of_order, Exception, "already ran past"),
        (fails_while_generating, PlanError, "layers 0 to 2"),
        (misses, EditMissed, "touched 2 of 5"),
    ],
)
def test_nothing_leaks_into_the_next_trace(failure, error, message):
    model = model_of("llama")
    plain, edited = logits(model, IDS, et.Plan(), MASK), logits(model, IDS, STRONG, MASK)
    replies = et.generate_replies(model, PROMPTS, max_new_tokens=3)
    with pytest.raises(error, match=message):
        failure(model)
    assert torch.equal(logits(model, IDS, et.Plan(), MASK), plain)
    assert torch.equal(logits(model, IDS, STRONG, MASK), edited)
    assert et.generate_replies(model, PROMPTS, max_new_tokens=3) == replies
    with torch.no_grad():
        own = model.nn._module(IDS, attention_mask=MASK, position_ids=(MASK.cumsum(-1) - 1).clamp(min=0)).logits
    assert close(own, plain, 1e-12), "nor into the model itself"


def test_an_edit_changes_what_is_read_behind_it_only():
    model, plan = model_of("llama"), et.zero(attn_out=[1])
    with model.trace(IDS, attention_mask=MASK, use_cache=False):
        with torch.no_grad():
            before = model.out_proj[1].input.clone().save()
            et.apply(model, plan)
            behind = model.blocks[1].output.clone().save()
    with model.trace(IDS, attention_mask=MASK, use_cache=False):
        with torch.no_grad():
            same = model.out_proj[1].input.clone().save()
            other = model.blocks[1].output.clone().save()
    assert torch.equal(before, same)
    assert not close(behind, other, 1e-3)
