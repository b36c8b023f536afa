import random

import pytest

from emotrace.judges.base import Reply
from emotrace.judges.structure import StructureJudge
from emotrace.models.bundled.grammar import STYLES, sample_reply, sample_scenario

JUDGE = StructureJudge()


def draw(label, seed=0, split="test"):
    rng = random.Random(seed)
    scene = sample_scenario(rng, split)
    return scene, sample_reply(rng, scene, label)


@pytest.mark.parametrize("label", STYLES)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_reply_of_the_grammar_is_accepted_under_its_style(label, split):
    for seed in range(60):
        scene, text = draw(label, seed, split)
        verdict = JUDGE.judge([Reply(text, scene.scenario, scene.event)])[0]
        assert (verdict.label, verdict.reasons) == (label, ()), text


@pytest.mark.parametrize("slot", ["person", "noun", "verb"])
def test_a_wrong_name_keeps_the_label_and_loses_acceptance(slot):
    wrong = {"person": "Zebulon", "noun": "submarine", "verb": "juggled"}[slot]
    for seed in range(30):
        scene, text = draw("fear", seed)
        said = getattr(scene, slot)
        altered = text.replace(said, wrong).replace(said.replace("the ", "The "), wrong)
        verdict = JUDGE.judge([Reply(altered, scene.scenario, scene.event)])[0]
        assert verdict.label == "fear"
        assert any(wrong in reason for reason in verdict.reasons)
        assert not JUDGE.accepts(Reply(altered, scene.scenario, scene.event))


def test_sentences_of_two_styles_do_not_parse():
    for seed in range(40):
        scene, angry = draw("anger", seed)
        _, sad = draw("sadness", seed)
        parts = angry.partition("! "), sad.partition(". ")
        if not (parts[0][2] and parts[1][2]):
            continue
        verdict = JUDGE.judge([Reply(f"{parts[0][0]}! {parts[1][2]}", scene.scenario, scene.event)])[0]
        assert verdict.label == "incoherent"
        assert "anger" in verdict.reasons[0]


@pytest.mark.parametrize("text", ["", "wow wow wow", "I am so angry!", "Help, help, the the the ladder."])
def test_text_outside_the_grammar_is_incoherent(text):
    scene, _ = draw("anger")
    verdict = JUDGE.judge([Reply(text, scene.scenario, scene.event)])[0]
    assert verdict.label == "incoherent"
    assert verdict.reasons


def test_a_scenario_outside_the_grammar_is_named_as_the_reason():
    _, text = draw("sadness")
    verdict = JUDGE.judge([Reply(text, "My landlord kept the deposit.", "It rained.")])[0]
    assert verdict.label == "sadness"
    assert "not of this grammar" in verdict.reasons[0]


def test_order_is_kept():
    rows = [draw(label, i) for i, label in enumerate(STYLES)]
    verdicts = JUDGE.judge([Reply(text, scene.scenario, scene.event) for scene, text in rows])
    assert [v.label for v in verdicts] == list(STYLES)
    assert set(JUDGE.labels) == {*STYLES, "incoherent"}
