"""Edits in a forward pass and while generating, against plain hooks and against relations that must hold."""

import pytest
import torch

from emotrace.errors import CircuitError, EditMissed, PlanError
from emotrace.trace.apply import apply
from emotrace.trace.compile import compile_plan
from emotrace.trace.edits import add, scale, set, zero
from emotrace.trace.generate import generate_replies
from emotrace.trace.likelihood import reply_nll
from emotrace.trace.plan import Edit, Plan
from tests.tiny import close, hooked, random_prompts, tiny_model, torch_model


def vector(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def greedy_by_hooks(model, prompt, edit, steps):
    """Greedy reply of one unpadded prompt, a full pass each step; ``edit(x, n_prompt)`` acts on layer 1's heads."""
    plain = torch_model(model)
    ids = list(prompt)
    with hooked(plain.model.layers[1].self_attn.o_proj, before=lambda x: edit(x.clone(), len(prompt))), torch.no_grad():
        for _ in range(steps):
            ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in model.end_of_text:
                break
    new = ids[len(prompt) :]
    return new[:-1] if new[-1] in model.end_of_text else new


TOKEN_COLUMNS = {
    "last": lambda n, t: [n - 1],
    "prompt": lambda n, t: list(range(n)),
    "generated": lambda n, t: list(range(n, t)),
    "reply": lambda n, t: list(range(n - 1, t)),
    "all": lambda n, t: list(range(t)),
    (0, -2): lambda n, t: [0, n - 2],
}


@pytest.mark.parametrize("tokens", TOKEN_COLUMNS, ids=str)
@pytest.mark.parametrize("kind", ["add", "zero", "replace"])
def test_generation_equals_hooks(tokens, kind):
    model, prompts, value = tiny_model(), random_prompts(4), 3 * vector(12)
    plan = {
        "add": add({(1, 2): value}, "heads", tokens=tokens),
        "zero": zero(heads=[(1, 2)], tokens=tokens),
        "replace": set({(1, 2): value}, "heads", tokens=tokens),
    }[kind]

    def edit(x, prompt_length):
        for column in TOKEN_COLUMNS[tokens](prompt_length, x.shape[1]):
            x[:, column, 24:36] *= 1.0 if kind == "add" else 0.0
            x[:, column, 24:36] += 0.0 if kind == "zero" else value
        return x

    replies = generate_replies(model, prompts, plan, max_new_tokens=8, batch_tokens=60)
    for prompt, reply in zip(prompts, replies, strict=True):
        assert list(reply.ids) == greedy_by_hooks(model, prompt, edit, 8)


def test_separate_vectors_for_the_last_token_and_the_reply():
    model, prompts, first, later = tiny_model(), random_prompts(3), 3 * vector(12), 3 * vector(12, seed=1)
    plan = add({(1, 2): first}, "heads", later={(1, 2): later}, tokens="reply")

    def edit(x, prompt_length):
        x[:, prompt_length - 1, 24:36] += first
        x[:, prompt_length:, 24:36] += later
        return x

    for prompt, reply in zip(prompts, generate_replies(model, prompts, plan, max_new_tokens=8), strict=True):
        assert list(reply.ids) == greedy_by_hooks(model, prompt, edit, 8)


def logits(model, ids, plan):
    with model.trace(ids, attention_mask=torch.ones_like(ids), use_cache=False):
        with torch.no_grad():
            apply(model, plan)
            out = model.output.logits.clone().save()
    return out


def test_strength_zero_is_no_edit_bit_for_bit():
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(dtype=dtype)
        ids = torch.tensor([random_prompts(1)[0]])
        values = {(1, 2): vector(12), (2, 0): vector(12, seed=4)}
        plan = add(values, "heads", strength=0.0, tokens="all") + add({1: 0 * vector(32)}, "mlp_out", tokens="all")
        assert torch.equal(logits(model, ids, plan), logits(model, ids, Plan()))
        neurons = add({(0, 3): vector(1)}, "neurons", strength=0.0, tokens="all")
        assert torch.equal(logits(model, ids, neurons), logits(model, ids, Plan()))


def test_edits_compose_in_order_and_undo_each_other():
    model, ids = tiny_model(), torch.tensor([random_prompts(1)[0]])
    values = {(1, 2): vector(12), (1, 3): vector(12, seed=4)}
    more = add(values, "heads", tokens="all")
    take = add({key: -value for key, value in values.items()}, "heads", tokens="all")
    assert close(logits(model, ids, more + take), logits(model, ids, Plan()), 1e-12)
    wiped = zero(heads=values)
    assert close(logits(model, ids, more + wiped), logits(model, ids, wiped), 1e-12)
    assert close(logits(model, ids, wiped + more), logits(model, ids, set(values, "heads")), 1e-12)
    assert close(logits(model, ids, scale(0.0, heads=values)), logits(model, ids, wiped), 1e-12)
    later_layer_first = zero(neurons=[(2, 1)]) + zero(heads=[(0, 0)])
    assert [o["layer"] for o in compile_plan(later_layer_first, model)] == [0, 2]


def test_no_edit_leaks_into_the_next_trace_after_an_exception():
    model, ids = tiny_model(), torch.tensor([random_prompts(1)[0]])
    before = logits(model, ids, Plan())
    with pytest.raises(Exception, match="deliberate"):  # noqa: PT012  the trace is the block under test
        with model.trace(ids, attention_mask=torch.ones_like(ids)):
            with torch.no_grad():
                apply(model, zero(heads=[(0, 0)]))
                raise RuntimeError("deliberate")
    assert torch.equal(logits(model, ids, Plan()), before)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (zero(heads=[(9, 0)]), "layers 0 to 2"),
        (zero(heads=[(0, 4)]), "components go from 0 to 3"),
        (zero(neurons=[(0, 40)]), "components go from 0 to 39"),
        (zero(heads=[(0, 1)], tokens="everywhere"), "unknown tokens"),
        (add({(0, 1): torch.zeros(5)}, "heads"), "do not fit"),
        (add({(0, 1): torch.full((12,), float("nan"))}, "heads"), "not finite"),
        (add({0: torch.zeros(31)}, "mlp_out"), "do not fit"),
        (Plan((Edit("keys", 0, (1,)),)), "unknown site"),
        (Plan((Edit("heads", 0, (1, 1)),)), "named twice"),
        (Plan((Edit("mlp_out", 0, (1,)),)), "has no components"),
    ],
)
def test_a_plan_that_does_not_fit_says_why(plan, message):
    with pytest.raises(PlanError, match=message):
        generate_replies(tiny_model(), random_prompts(1), plan)


def test_misuse_is_refused():
    model = tiny_model()
    with pytest.raises(PlanError, match="unknown option 'tempprature'"):
        generate_replies(model, random_prompts(1), tempprature=1.0)
    with pytest.raises(PlanError, match="outside prompt 0"):
        generate_replies(model, random_prompts(2), zero(heads=[(0, 0)], tokens=(50,)))
    with pytest.raises(PlanError, match="different components"):
        add({(0, 0): torch.zeros(12)}, "heads", later={(0, 1): torch.zeros(12)})


def test_missed_edits_raise(monkeypatch):
    import emotrace.trace.generate as module

    real = module.make_edits
    monkeypatch.setattr(module, "make_edits", lambda *a: [0] if a[1] == 1 else real(*a))
    with pytest.raises(EditMissed, match=r"edit of heads in layer 0 .*touched 2 of 3 passes of row 0, not \[1\]"):
        generate_replies(tiny_model(), random_prompts(1), zero(heads=[(0, 0)]), max_new_tokens=3)


def test_likelihood_equals_a_plain_forward_pass():
    model = tiny_model()
    prompts, replies = random_prompts(5), [*random_prompts(4, seed=9, shortest=1), []]
    values = reply_nll(model, prompts, replies, batch_tokens=40)
    assert values[-1] is None
    for prompt, reply, value in zip(prompts[:4], replies[:4], values[:4], strict=True):
        with torch.no_grad():
            logprobs = torch_model(model)(torch.tensor([[*prompt, *reply]])).logits[0].log_softmax(-1)
        expected = -sum(logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(reply)) / len(reply)
        assert abs(value - float(expected)) < 1e-5


def test_one_batch_holds_a_plan_for_each_row():
    model, prompts = tiny_model(), random_prompts(6)
    plans = [
        add({(1, 2): 3 * vector(12)}, "heads"),
        Plan(),
        zero(neurons=[(0, 3), (2, 1)], tokens="all") + add({(1, 2): vector(12)}, "heads", tokens="last"),
        add({(1, 2): 3 * vector(12)}, "heads", tokens="all") + zero(heads=[(1, 2)], tokens="last"),
        add({2: vector(32)}, "mlp_out"),
        scale(2.0, heads=[(0, 1)], tokens="prompt"),
    ]
    together = generate_replies(model, prompts, plans, max_new_tokens=8)
    for prompt, plan, reply in zip(prompts, plans, together, strict=True):
        assert reply == generate_replies(model, [prompt], plan, max_new_tokens=8)[0]
    with pytest.raises(PlanError, match="6 plans for 2 prompts"):
        generate_replies(model, prompts[:2], plans)


def test_a_checkpoints_own_generation_settings_do_not_steer():
    model, prompts = tiny_model(), random_prompts(3)
    plain = generate_replies(model, prompts, max_new_tokens=10)
    settings = torch_model(model).generation_config
    settings.repetition_penalty, settings.no_repeat_ngram_size, settings.num_beams = 5.0, 1, 3
    assert generate_replies(model, prompts, max_new_tokens=10) == plain
    torch.manual_seed(0)
    assert generate_replies(model, prompts, max_new_tokens=10, temperature=5.0) != plain
    assert generate_replies(model, []) == []


def test_indices_concern_only_the_rows_that_have_them():
    model, prompts = tiny_model(), [random_prompts(1, shortest=4, longest=4)[0], random_prompts(1, shortest=9)[0]]
    plans = [Plan(), zero(heads=[(1, 2)], tokens=(6,))]
    together = generate_replies(model, prompts, plans, max_new_tokens=6)
    assert together == [
        generate_replies(model, [p], plan, max_new_tokens=6)[0] for p, plan in zip(prompts, plans, strict=True)
    ]
    for tokens in (-1, [0], ()):
        with pytest.raises(PlanError, match="unknown tokens"):
            generate_replies(model, prompts, zero(heads=[(1, 2)], tokens=tokens))
    with pytest.raises(PlanError, match="scale is nan"):
        generate_replies(model, prompts, scale(float("nan"), heads=[(1, 2)]))


def test_a_plan_from_another_models_circuit_is_refused():
    model = tiny_model()
    plan = Plan(add({(1, 2): vector(12)}, "heads").edits, (tiny_model(seed=5).fingerprint,))
    with pytest.raises(CircuitError, match="other weights"):
        generate_replies(model, random_prompts(1), plan + zero(heads=[(0, 0)]))
    assert Plan(plan.edits, (model.fingerprint,)) + Plan((), (model.fingerprint,)) == Plan(
        plan.edits, (model.fingerprint,)
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("site", ["heads", "mlp_out"])
def test_gradients_flow_through_edits(family, site):
    """The slope along a push, taken behind an edit of an earlier layer, is that of finite differences."""
    model, ids = tiny_model(family), torch.tensor([random_prompts(1)[0]])
    key, width = ((1, 2), model.sizes.head_width) if site == "heads" else (1, 32)
    direction, before = vector(width), scale(0.5, heads=[(0, 1), (1, 3)])

    def target(step):
        plan = before + add({key: step * direction}, site, tokens="all")
        return logits(model, ids, plan)[0, -1].logsumexp(-1)

    module = model.out_proj[1] if site == "heads" else model.mlp_out[1]
    with model.trace(ids, attention_mask=torch.ones_like(ids), use_cache=False):
        with torch.enable_grad():
            model.embeddings.output.requires_grad_(True)
            apply(model, before)
            edited = module.input if site == "heads" else module.output
            loss = model.output.logits[0, -1].logsumexp(-1)
            gradient = torch.autograd.grad(loss, edited)[0][0].sum(0).save()
    part = gradient[2 * width : 3 * width] if site == "heads" else gradient
    slope = (target(1e-3) - target(-1e-3)) / 2e-3
    assert close(part @ direction, slope, 1e-3)  # norms compute in float32, so the step cannot be smaller
