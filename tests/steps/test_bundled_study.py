"""The main job on the bundled model, small: what must hold on a real (if small) language model."""

import pytest
import torch

import emotrace as et
from emotrace.steps.control import ARMS, Arms, Setting
from emotrace.steps.elicit import Elicitation
from emotrace.steps.evaluate import Attempt
from emotrace.trace.generate import generate_replies

LABELS = et.PAPER_SIX.labels


@pytest.fixture(scope="module")
def model():
    return et.load("bundled")


@pytest.fixture(scope="module")
def study(model):
    return et.discover(model, et.load_sev("sev-mini").train[:10])


def steered(model, plan_of, count=4):
    tasks = et.held_out_tasks(et.load_sev("sev-mini").validation, et.PAPER_SIX, count)
    attempts = [Attempt(task, plan_of(task.emotion)) for task in tasks]
    replies = et.evaluate(model, "arm", attempts, et.PAPER_SIX, et.BundledJudge.load(), structure=et.StructureJudge())
    return sum(r.correct for r in replies) / len(replies), replies


def test_discovery_is_small_and_drives_generation(model, study):
    sizes = model.sizes
    for emotion in LABELS:
        assert len(study.circuit.components("heads", emotion)) <= 0.05 * sizes.count("heads")
        assert len(study.circuit.components("neurons", emotion)) <= 0.05 * sizes.count("neurons")
    driven, replies = steered(model, lambda e: et.add(study.circuit, e))
    plain, _ = steered(model, lambda e: et.Plan())
    assert driven >= 0.8
    assert plain <= 0.1
    assert all(r.nll is not None for r in replies)


def test_elicitation_survives_a_round_trip(study):
    elicited = study.elicited
    assert Elicitation.from_records(elicited.emotions, elicited.to_records()) == elicited
    assert len(elicited.accepted_groups) + len(elicited.dropped_groups) == 30
    assert all(r.label == r.condition for e in LABELS for r in elicited.accepted(e))
    assert set(elicited.acceptance()) == {*LABELS, "neutral"}
    assert len(elicited.samples()) == 7 * len(elicited.accepted_groups)


def test_strength_zero_is_the_unsteered_reply(model, study):
    prompts = model.encode([et.prompt(g, "neutral", et.PAPER_SIX) for g in et.groups(et.load_sev("sev-mini").test[:4])])
    plain = generate_replies(model, prompts)
    assert generate_replies(model, prompts, et.add(study.circuit, "fear", strength=0.0)) == plain
    assert generate_replies(model, prompts, et.add(study.circuit, "fear", strength=1.0)) != plain


def test_batched_and_single_steered_replies_agree_in_float64(study):
    exact = et.load("bundled", dtype="float64")
    prompts = exact.encode([et.prompt(g, "neutral", et.PAPER_SIX) for g in et.groups(et.load_sev("sev-mini").test[:2])])
    plan = et.add(study.circuit, "anger")
    together = generate_replies(exact, prompts, plan)
    assert [generate_replies(exact, [ids], plan)[0] for ids in prompts] == together


def test_every_arm_makes_a_reply(model, study):
    reply = et.emotion_directions(study.statistics, measured_at="reply")
    arms = Arms(model, study.circuit, study.differences, study.directions, reply, tokens="reply", seed=0)
    tasks = et.held_out_tasks(et.load_sev("sev-mini").validation, et.PAPER_SIX, 1)
    for arm in ARMS:
        setting = Setting(0.2, (2, 4)) if arm == "residual" else Setting(1.0)
        attempts = [arms.attempt(arm, task, setting, draw=1) for task in tasks]
        replies = et.evaluate(model, arm, attempts, et.PAPER_SIX, et.BundledJudge.load())
        assert [r.emotion for r in replies] == list(LABELS)
        assert all(r.structure is None for r in replies)
    assert arms.other("disgust") == "anger"
    with pytest.raises(et.EmotraceError, match="needs a setting"):
        arms.attempt("circuit", tasks[0], None, draw=2)


def test_an_edit_inside_the_users_own_trace_and_model(model, study):
    mine = model.nn
    theirs = et.load(mine)
    ids = torch.tensor(model.encode(["<|bos|><|user|>A lamp.<|end|><|assistant|>"]))
    plan = et.zero(heads=[(3, 1), (4, 0)]) + et.add(study.circuit, "anger", strength=1.0)
    with theirs.trace(ids, attention_mask=torch.ones_like(ids), remote=theirs.remote):
        with torch.no_grad():
            et.apply(theirs, plan)
            edited = theirs.output.logits[:, -1].clone().save()
    with mine.trace(ids, attention_mask=torch.ones_like(ids)):
        with torch.no_grad():
            plain = mine.output.logits[:, -1].clone().save()
    assert not torch.equal(edited, plain)


def test_requests_of_the_wrong_kind_say_what_to_give(model):
    data = et.load_sev("sev-mini")
    for wrong, message in (
        (lambda: et.discover("bundled", data.train), r"load it first: emotrace.load\('bundled'\)"),
        (lambda: et.discover(model, data), "data.train"),
        (lambda: et.discover(model, []), "one or more groups"),
        (lambda: et.elicit(model, data.train[:1], et.PAPER_SIX, et.BundledJudge.load()), "one or more groups"),
        (lambda: et.generate(model, "hi", plan="anger"), "plan is a str"),
        (lambda: et.generate(model, "hi", max_new_tokens=0), "at least one token"),
        (lambda: et.generate(model, "Yuki broke the lamp. " * 400), "leaves no room for a reply"),
        (lambda: et.load("bundled", device="cuda:77"), "cannot put 'bundled' on 'cuda:77'"),
        (lambda: et.load("bundled", dtype="float33"), "no dtype 'float33'"),
    ):
        with pytest.raises(et.EmotraceError, match=message):
            wrong()


def test_generate_takes_text_prompts_and_lists(model):
    one = et.generate(model, "You keep a lamp near Yuki. Today Yuki broke the lamp.")
    several = et.generate(model, ["You keep a lamp near Yuki. Today Yuki broke the lamp.", "You lost a key."])
    assert several[0] == one
    group = et.groups(et.load_sev("sev-mini").test[:1])[0]
    asked = et.generate(model, et.prompt(group, "anger", et.PAPER_SIX))
    assert et.BundledJudge.load().judge([et.Reply(asked)])[0].label == "anger"
    cut = et.generate(model, "You lost a key.", max_new_tokens=2)
    assert len(cut) < len(several[1])


def test_the_shipped_circuit_belongs_to_the_shipped_model(model):
    circuit = et.EmotionCircuit.load(et.BUNDLED_CIRCUIT)
    circuit.check(model)
    assert circuit.emotions == LABELS
    driven, _ = steered(model, lambda e: et.add(circuit, e), count=3)
    assert driven >= 0.9
