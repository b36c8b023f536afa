"""Plans at the last token behind a cached prefix, against full passes with plain hooks."""

import pytest
import torch

import emotrace as et
from emotrace.errors import DataError, PlanError
from emotrace.trace.joint import last_token_readings
from tests.conformance.hooks import HookEdit, forward
from tests.remote.loopback import hosted_here
from tests.tiny import FAMILIES, close, random_prompts, tiny_model, torch_model


def metric(logits):
    return logits[:, 7] - 2 * logits[:, 8]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plans_of(model, rows):
    """Plans, and what each does to row n, for hooks."""
    width = model.sizes.head_width
    heads, other = random(rows, 1, width, seed=1), random(rows, 1, width, seed=2)
    plans = [
        et.Plan(),
        et.set({(0, 1): heads, (2, 3): other}, "heads", tokens="last"),
        et.zero(heads=[(1, 0)], mlp_out=[1], tokens="last"),
    ]

    def hook_edits(number, n):
        if number == 0:
            return []
        if number == 1:
            return [
                HookEdit("set", "heads", 0, 1, value=heads[n, 0], tokens="last"),
                HookEdit("set", "heads", 2, 3, value=other[n, 0], tokens="last"),
            ]
        return [HookEdit("zero", "heads", 1, 0, tokens="last"), HookEdit("zero", "mlp_out", 1, tokens="last")]

    return plans, hook_edits


@pytest.mark.parametrize("family", FAMILIES)
def test_readings_equal_full_passes_with_hooks(family):
    model, prompts = tiny_model(family), random_prompts(4)
    prompts[1] = [*prompts[0][:-2], 11, 12]  # a beginning to share
    plans, hook_edits = plans_of(model, 4)
    ((readings, moved),) = last_token_readings(model, [(prompts, plans)], metric=metric)
    assert readings.shape == moved.shape == (3, 4)
    for number in range(3):
        for n, ids in enumerate(prompts):
            logits = forward(torch_model(model), ids, hook_edits(number, n))[-1:]
            assert close(readings[number, n], metric(logits)[0], 1e-6), (number, n)
    assert moved[0].eq(0).all()
    assert (moved[1:] > 1e-3).all()


def test_a_direction_reads_the_state_after_the_final_norm():
    model, prompts = tiny_model(), random_prompts(3)
    plans, _ = plans_of(model, 3)
    directions = torch.linalg.qr(random(32, 32))[0]
    found = [last_token_readings(model, [(prompts, plans)], direction=d)[0] for d in directions]
    states = torch.stack([readings for readings, _ in found], -1)
    for n, ids in enumerate(prompts):
        seen = []
        handle = torch_model(model).model.norm.register_forward_hook(lambda *a, seen=seen: seen.append(a[-1][0, -1]))
        forward(torch_model(model), ids)
        handle.remove()
        assert close(states[0, n], directions @ seen[0], 1e-6)
    assert close((states - states[0]).norm(dim=-1), found[0][1], 1e-6)


def test_it_is_the_same_on_a_hosted_model():
    model, prompts = tiny_model(), random_prompts(3)
    plans, _ = plans_of(model, 3)
    batches, direction = [(prompts, plans), (prompts[:1], plans[::2])], random(32)
    here = last_token_readings(model, batches, direction=direction)
    there = last_token_readings(hosted_here(model), batches, direction=direction)
    for mine, theirs in zip(here, there, strict=True):
        assert close(theirs[0], mine[0], 1e-9)
        assert close(theirs[1], mine[1], 1e-9)


def test_edits_at_other_tokens_are_refused():
    model, prompts = tiny_model(), random_prompts(2)
    with pytest.raises(PlanError, match="an edit acts at tokens='all'"):
        last_token_readings(model, [(prompts, [et.zero(heads=[(0, 0)])])], direction=random(32))
    with pytest.raises(DataError, match="a prompt of one token has no prefix"):
        last_token_readings(model, [([[7]], [et.Plan()])], direction=random(32))
