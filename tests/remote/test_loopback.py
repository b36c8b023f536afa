"""What runs as if on a server, where nothing of this project is installed, gives what runs here."""

import pytest
import torch

import emotrace as et
from tests.remote.functions import PROMPTS, SAMPLES, flat, functions
from tests.remote.loopback import hosted_here
from tests.tiny import QUICK, close, tiny_model

FEW = ("llama",)


@pytest.mark.parametrize("family", [f if f in FEW else pytest.param(f, marks=pytest.mark.slow) for f in QUICK])
def test_every_function_gives_the_same(family):
    model = tiny_model(family)
    hosted = hosted_here(model, request_tokens=60)
    here, there = functions(model), functions(hosted)
    for name, call in here.items():
        mine, theirs = flat(call()), flat(there[name]())
        assert len(mine) == len(theirs), name
        for a, b in zip(mine, theirs, strict=True):
            assert close(b, a, 1e-9) if isinstance(a, torch.Tensor) and a.is_floating_point() else _same(a, b), name


def _same(a, b):
    return a.equal(b) if isinstance(a, torch.Tensor) else a == b


def test_sampling_repeats_by_seed_and_differs_between_seeds():
    hosted = hosted_here(tiny_model())
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(et.generate_replies(hosted, PROMPTS, max_new_tokens=8, do_sample=True, temperature=2.0))
    assert made[0] == made[1] != made[2]


def test_answers_do_not_grow_with_prompts_or_tokens():
    received = []
    for times in (1, 6):
        hosted = hosted_here(tiny_model())
        samples = [et.Sample(s.condition, s.prompt * times, s.reply * times) for s in SAMPLES * times]
        et.capture(hosted, samples, ("joy", "fear", "neutral"))
        assert hosted.connection.counters["requests"] == 1
        received.append(hosted.connection.counters["bytes_received"])
    assert received[0] == received[1]


def doubled(values):
    return 2 * values


def test_functions_of_the_users_own_travel():
    model = tiny_model()
    hosted = hosted_here(model)
    found = []
    for each in (model, hosted):
        with each.trace(torch.tensor(PROMPTS[:1])):
            with torch.no_grad():
                last = doubled(each.blocks[1].output[:, -1]).save()
        found.append(last)
    assert close(found[1], found[0], 1e-12)


def test_a_plan_with_a_span_has_to_be_located_first():
    hosted = hosted_here(tiny_model())
    plan = et.zero(heads=[(0, 0)], tokens=et.Span("w9"))
    with pytest.raises(et.EmotraceError, match="locate an edit at a Span before a remote block"):
        with hosted.trace(torch.tensor([[9, 10]])):
            et.apply(hosted, plan)
