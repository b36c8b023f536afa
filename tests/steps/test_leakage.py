"""Off-target emotions, inputs that move the wrong way, and agreement of judges, on replies where all is known."""

import pytest

from emotrace.errors import DataError
from emotrace.formulas.statistics import cohen_kappa, krippendorff_alpha
from emotrace.steps.agreement import agreement_by_arm
from emotrace.steps.evaluate import JudgedReply
from emotrace.steps.leakage import anti_steerable, off_target


def reply(scenario, emotion="anger", label="anger", score=None, arm="a", draw=0):
    group = f"s{scenario}/neutral"
    return JudgedReply(
        arm, draw, group, f"s{scenario}", "neutral", "", "", emotion, "one", label, True, 1.0, True, score, label
    )


def test_off_target_counts_other_emotions_alone():
    labels = ["anger", "fear", "fear", "disgust", "neutral", "incoherent", "abstain", "anger"]
    replies = [reply(i, label=label) for i, label in enumerate(labels)]
    replies += [reply(i, "joy", label) for i, label in enumerate(["joy", "joy", "sadness", "fear"])]
    replies += [reply(0, "shame", "shame")]
    found = off_target(replies, seed=0)
    assert found["share"] == 5 / 13
    low, high = found["share_ci"]
    assert 0 < low < 5 / 13 < high < 1
    assert found["most_frequent"] == {
        "anger": {"label": "fear", "share": 2 / 8},
        "joy": {"label": "fear", "share": 1 / 4},  # as often as sadness, and first by name
        "shame": None,
    }


def test_inputs_that_move_away_are_counted_and_ties_apart():
    before = [reply(i, score=0.5) for i in range(10)]
    after = [reply(i, score=score) for i, score in enumerate([0.4, 0.2, 0.5, 0.5, 0.5, 0.6, 0.9, 0.9, 0.9, 0.9])]
    found = anti_steerable(after, before, seed=0)
    assert (found["share"], found["ties"], found["n"]) == (0.2, 0.3, 10)
    low, high = found["share_ci"]
    assert 0 < low < 0.2 < high < 0.6
    assert anti_steerable(before, before, seed=0)["ties"] == 1.0


def test_moves_are_of_the_same_task_in_every_draw():
    before = [reply(0, score=0.1), reply(1, score=0.8), reply(1, "fear", score=0.3)]
    after = [reply(1, score=0.7, draw=d) for d in range(2)] + [reply(0, score=0.2), reply(1, "fear", score=0.4)]
    assert anti_steerable(after, before, seed=0)["share"] == 0.5


def test_without_scores_nothing_is_claimed():
    assert anti_steerable([reply(0)], [reply(0)], seed=0) is None
    assert anti_steerable([reply(0, score=0.1)], [reply(0)], seed=0) is None
    with pytest.raises(DataError, match=r"no unsteered reply to \('s1/neutral', 'anger'\)"):
        anti_steerable([reply(1, score=0.1)], [reply(0, score=0.1)], seed=0)


def judged():
    replies = [reply(i // 3, ("anger", "fear", "joy")[i % 3], arm="ab"[i // 18]) for i in range(36)]
    first = [r.emotion for r in replies]
    second = ["joy" if i % 5 == 0 else label for i, label in enumerate(first)]
    third = ["abstain" if i % 4 == 0 else label for i, label in enumerate(second)]
    return replies, {"first": first, "second": second, "third": third}


def test_agreement_is_that_of_the_labels_in_all_and_by_arm():
    replies, labels = judged()
    found = agreement_by_arm(replies, labels, seed=3)
    missing = [None if label == "abstain" else label for label in labels["third"]]
    clusters = [r.skeleton_id for r in replies]
    alpha = krippendorff_alpha([labels["first"], labels["second"], missing], clusters, seed=3)
    expected = {"estimate": alpha.estimate, "ci": [alpha.low, alpha.high], "method": alpha.method}
    assert found["alpha"] == expected
    assert 0 < alpha.estimate < 1
    assert list(found["kappa"]) == ["first, second", "first, third", "second, third"]
    half = cohen_kappa(labels["first"][18:], labels["second"][18:], clusters[18:], seed=3)
    part = found["by_arm"]["b"]
    assert part["kappa"]["first, second"]["ci"] == [half.low, half.high]
    assert (found["kappa"]["second, third"]["estimate"], found["compared"]["second, third"]) == (1.0, 27)
    assert found["abstained"] == {"first": 0, "second": 0, "third": 0.25}
    wrong = sum(a != b for a, b in zip(labels["first"], labels["second"], strict=True))
    assert found["accuracy"]["second"] == found["same"]["first, second"] == 1 - wrong / 36
    assert (found["n"], found["scenarios"], part["n"], part["scenarios"]) == (36, 12, 18, 6)
    assert found["judges"] == ["first", "second", "third"]


def test_a_judge_counts_where_it_was_asked():
    replies, labels = judged()
    some = {**labels, "third": [label if i < 9 else None for i, label in enumerate(labels["second"])]}
    found = agreement_by_arm(replies, some, seed=0)
    assert (found["compared"]["first, second"], found["compared"]["first, third"]) == (36, 9)
    right = sum(label == r.emotion for r, label in zip(replies[:9], labels["second"], strict=False))
    assert (found["accuracy"]["third"], found["abstained"]["third"], found["asked"]["third"]) == (right / 9, 0, 9)
    part = found["by_arm"]["b"]
    assert (part["accuracy"]["third"], part["abstained"]["third"], part["asked"]["third"]) == (None, None, 0)
    assert (part["kappa"]["first, third"], part["same"]["first, third"]) == (None, None)


def test_arms_without_variation_have_no_agreement_to_speak_of():
    replies = [reply(i, label="neutral") for i in range(4)]
    found = agreement_by_arm(replies, {"x": ["neutral"] * 4, "y": ["neutral"] * 4}, seed=0)
    assert (found["alpha"], found["kappa"], found["same"]) == (None, {"x, y": None}, {"x, y": 1.0})
    for wrong in ({"x": ["neutral"] * 4}, {"x": ["neutral"] * 4, "y": ["neutral"] * 3}):
        with pytest.raises(DataError, match="two judges"):
            agreement_by_arm(replies, wrong, seed=0)
