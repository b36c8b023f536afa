"""Evaluation, tuning and separation on made-up replies, where every figure is known."""

import pytest
import torch

from emotrace.data.concepts import PAPER_SIX
from emotrace.data.sev import VALENCES, Scenario
from emotrace.errors import DataError
from emotrace.formulas.directions import unit
from emotrace.steps.control import Setting, Tried, choose, frontiers, most_accurate, residual_plan, spread_draws
from emotrace.steps.directions import Directions
from emotrace.steps.evaluate import (
    JudgedReply,
    accuracy,
    arm_summary,
    confusion,
    fluency_gap,
    held_out_tasks,
    paired_accuracy,
    to_records,
)
from emotrace.steps.separation import States, cosines, nearest_direction_accuracy

SCENARIOS = [Scenario("t", f"text {i}", {v: f"event {v}" for v in VALENCES}, f"s{i}") for i in range(12)]


def reply(
    scenario=0,
    emotion="anger",
    label="anger",
    nll=1.0,
    arm="a",
    valence="neutral",
    structure=True,
    draw=0,
    score=None,
    second=None,
    text="one two",
):
    return JudgedReply(
        arm,
        draw,
        f"s{scenario}/{valence}",
        f"s{scenario}",
        valence,
        "",
        "",
        emotion,
        text,
        label,
        structure,
        nll,
        True,
        score,
        second,
    )


def test_tasks_meet_every_valence_equally_often():
    tasks = held_out_tasks(SCENARIOS, PAPER_SIX, 12)
    assert len(tasks) == 72
    for emotion in PAPER_SIX.labels:
        for valence in VALENCES:
            assert sum(t.emotion == emotion and t.group.valence == valence for t in tasks) == 4


def test_draws_are_dealt_by_scenario_or_all_do_everything():
    tasks = held_out_tasks(SCENARIOS, PAPER_SIX, 12)
    dealt = spread_draws(tasks, 5, full=False)
    assert [task for task, _ in dealt] == tasks
    assert {task.group.skeleton_id: draw for task, draw in dealt} == {f"s{i}": i % 5 for i in range(12)}
    assert len(spread_draws(tasks, 5, full=True)) == 5 * 72


def test_summary_counts_abstention_and_incoherence_as_wrong():
    labels = ["anger"] * 6 + ["abstain", "incoherent", "fear", "neutral"]
    replies = [reply(i, label=label, structure=i % 2 == 0) for i, label in enumerate(labels)]
    prompted = [reply(i, nll=0.5) for i in range(10)]
    summary = arm_summary(replies, prompted, seed=0, lexicon=frozenset({"one"}))
    assert summary["accuracy"] == 0.6
    low, high = summary["accuracy_ci"]
    assert low < 0.6 < high
    assert summary["by_emotion"]["anger"]["n"] == 10
    assert summary["abstained"] == summary["incoherent"] == 0.1
    assert summary["fluency_gap_nats"] == 0.5
    assert summary["structure_accepted"] == summary["nonwords"] == 0.5
    assert (summary["n"], summary["scenarios"], summary["draws"], summary["distinct_replies"]) == (10, 10, 1, 1)
    # the one distinct reply is "one two", ten times
    assert (summary["distinct_1"], summary["distinct_2"], summary["length"]) == (2 / 20, 1 / 10, 2)
    assert (summary["repetition"], summary["stopped"], summary["accuracy_second"]) == (0, 1, None)
    table = confusion(replies, ["anger", "fear"], ["anger", "fear", "abstain"])
    assert table["counts"] == [[6, 1, 1], [0, 0, 0]]


def test_fluency_gap_compares_the_same_tasks_only():
    prompted = [reply(0, nll=1.0), reply(1, nll=9.0)]
    assert fluency_gap([reply(0, nll=1.5)], prompted) == 0.5
    assert fluency_gap([reply(0, nll=None)], prompted) is None
    assert arm_summary([reply(0, nll=None)], prompted, seed=0)["empty"] == 1


def test_pairing_goes_by_task_and_clusters_by_draw():
    a = [reply(i) for i in range(12)]
    mixed = [reply(i, label="fear", draw=0) for i in range(12)] + [reply(i, draw=1) for i in range(12)]
    paired = paired_accuracy(a, mixed, seed=0)
    assert paired.difference == 0.5
    assert paired.interval.high - paired.interval.low > 0.8  # two draws that disagree tell little about a third
    alike = paired_accuracy(a, [reply(i, label="fear", draw=i) for i in range(12)], seed=0)
    assert alike.difference == 1.0
    assert alike.p < 0.01
    assert to_records(a)[0]["label"] == "anger"


def test_an_arm_of_several_draws_has_an_interval_over_draws():
    by_draw = [reply(i, label="anger" if i % 4 == 0 else "fear", draw=i % 4) for i in range(48)]
    by_scenario = [reply(i, label="anger" if i % 4 == 0 else "fear") for i in range(48)]
    wide, narrow = accuracy(by_draw, 0), accuracy(by_scenario, 0)
    assert wide.estimate == narrow.estimate == 0.25
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_tuning_takes_accuracy_within_the_bar_then_the_smaller_strength():
    def trial(strength, accuracy, gap):
        return Tried("circuit", Setting(strength), accuracy, gap, 10)

    trials = [trial(1, 0.7, 0.0), trial(2, 0.9, -0.09), trial(3, 0.9, 0.05), trial(4, 1.0, 0.4), trial(5, 1.0, None)]
    assert choose(trials, fluency_bar=0.1).setting.strength == 2
    assert choose(trials[3:], fluency_bar=0.1).setting.strength == 4
    assert choose([trials[3], trial(5, 0.2, -0.2)], fluency_bar=0.1).setting.strength == 5
    assert most_accurate(trials).setting.strength == 4


def test_residual_steering_adds_alpha_sigma_v_over_the_range():
    generator = torch.Generator().manual_seed(0)
    vectors = unit(torch.randn(1, 4, 2, 5, dtype=torch.float64, generator=generator))
    sigma = torch.rand(4, 2, dtype=torch.float64, generator=generator)
    last = Directions(("joy",), "emotions", "last", vectors, sigma[None], sigma, vectors[:, 0, 0], (0,))
    over = Directions(("joy",), "emotions", "reply", -vectors, sigma[None], sigma, vectors[:, 0, 0], (0,))
    plan = residual_plan(last, over, "joy", Setting(0.5, (1, 2)), "reply")
    assert [edit.layer for edit in plan.edits] == [1, 2]
    for edit in plan.edits:
        expected = 0.5 * sigma[edit.layer, 1] * vectors[0, edit.layer, 1]
        assert torch.allclose(edit.add[0], expected)
        assert torch.allclose(edit.add_later[0], -expected)
    with pytest.raises(DataError, match="range of layers"):
        residual_plan(last, over, "joy", Setting(0.5), "reply")


def test_separation_is_perfect_for_clear_clusters_and_chance_for_none():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(40)
    noise = torch.randn(120, 2, 2, 8, generator=generator)
    centres = 50 * torch.randn(3, 8, generator=generator)
    clear = noise.clone()
    clear[:, 1] += centres[labels][:, None]
    states = States(("a", "b", "c"), (0, 1), clear, labels, tuple(f"s{i // 3}" for i in range(120)))
    found = nearest_direction_accuracy(states)
    assert found[1].tolist() == [1.0, 1.0]
    assert float(found[0].max()) < 0.6
    assert cosines(torch.eye(2)) == [[1.0, 0.0], [0.0, 1.0]]


def test_second_judge_has_an_accuracy_of_its_own():
    seconds = ["anger", "anger", "fear", None]
    summary = arm_summary([reply(i, second=second) for i, second in enumerate(seconds)], [reply(0)], seed=0)
    assert summary["accuracy_second"] == pytest.approx(2 / 3)
    low, high = summary["accuracy_second_ci"]
    assert 0 < low < 2 / 3 < high < 1


def test_frontiers_put_every_setting_beside_the_fixed_arms():
    settings = (Setting(1.0), Setting(2.0), Setting(3.0, (1, 2)))
    trials = [
        Tried("circuit", settings[0], 0.5, 0.1, 4),
        Tried("circuit", settings[1], 0.9, -0.4, 4),
        Tried("residual", settings[2], 0.4, None, 4),
    ]
    prompted = [reply(i, nll=1.0) for i in range(4)]
    plain = [reply(i, nll=1.5, label="neutral") for i in range(4)]
    found = frontiers(trials, {"unsteered": plain, "prompting": prompted}, limit=0.5, seed=0)
    assert list(found) == ["unsteered", "prompting", "circuit", "residual"]
    assert found["circuit"]["area"] == pytest.approx((0.3 * 0.5 + 0.1 * 0.9) / 0.5)
    assert [p["on_frontier"] for p in found["circuit"]["points"]] == [True, True]
    assert found["residual"]["points"] == [
        {"strength": 3.0, "layers": [1, 2], "accuracy": 0.4, "gap": None, "on_frontier": False}
    ]
    assert found["residual"]["area"] == 0.0
    assert found["prompting"]["area"] == 1.0
    assert found["unsteered"]["points"] == [{"strength": None, "accuracy": 0.0, "gap": 0.5, "on_frontier": True}]
