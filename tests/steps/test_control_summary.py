"""The summary of a small comparison, computed again from the replies that it kept."""

import json

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from emotrace.runner import Inputs, run_protocol
from emotrace.steps.control import ARMS

SMALL = {
    "elicit.scenarios": 4,
    "scenarios": 3,
    "validation_scenarios": 2,
    "draws": 2,
    "strengths": (0.5, 4.0),
    "residual_alphas": (4.0,),
    "residual_depths": ("0.39-0.72",),
    "agreement_scenarios": 2,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    summary = run_protocol("control", folder, Inputs(), parameters=SMALL).summary["control"]
    kept = folder / "stages" / "control"
    return summary, *(
        [json.loads(line) for line in (kept / name).open()] for name in ("replies.jsonl", "likelihood.jsonl")
    )


@pytest.mark.slow
def test_agreement_is_that_of_the_records(finished):
    summary, replies, judged = finished
    agreement = summary["agreement"]
    names = agreement["judges"]
    assert set(names) == {"bundled", "structure", "likelihood"}
    assert len(judged) == agreement["asked"]["likelihood"] == len(ARMS) * 2 * 6
    assert len({replies[r["row"]]["skeleton_id"] for r in judged}) == 2
    by_likelihood = {r["row"]: r["label"] for r in judged}
    kept = {
        "bundled": [r["label"] for r in replies],
        "structure": [r["second"] for r in replies],
        "likelihood": [by_likelihood.get(row, "abstain") for row in range(len(replies))],
    }
    labels = np.array([kept[name] for name in names], dtype=object)
    number = {label: i for i, label in enumerate(sorted(set(labels.flat) - {"abstain"}))}
    codes = np.array([[number.get(label, np.nan) for label in row] for row in labels])
    alpha = krippendorff.alpha(codes, level_of_measurement="nominal")
    assert agreement["alpha"]["estimate"] == pytest.approx(alpha)
    for pair, found in agreement["kappa"].items():
        a, b = (codes[names.index(name)] for name in pair.split(", "))
        both = ~np.isnan(a + b)
        assert agreement["compared"][pair] == both.sum()
        assert found["estimate"] == pytest.approx(cohen_kappa_score(a[both].astype(int), b[both].astype(int)))
        assert found["ci"][0] <= found["estimate"] <= found["ci"][1]


@pytest.mark.slow
def test_arms_are_summed_up_from_their_replies(finished):
    summary, replies, _ = finished
    unsteered = {(r["group_id"], r["emotion"]): r["score"] for r in replies if r["arm"] == "unsteered"}
    for arm, part in summary["arms"].items():
        mine = [r for r in replies if r["arm"] == arm]
        assert part["accuracy_second"] == np.mean([r["second"] == r["emotion"] for r in mine])
        counts = np.array(summary["confusion"][arm]["counts"])
        emotions = counts[:, : len(counts)]
        assert part["off_target"]["share"] == pytest.approx((emotions.sum() - np.trace(emotions)) / len(mine))
        moves = np.array([r["score"] - unsteered[r["group_id"], r["emotion"]] for r in mine])
        if arm == "unsteered":
            assert part["anti_steerable"] is None
        else:
            assert part["anti_steerable"]["share"] == np.mean(moves < 0)
            assert part["anti_steerable"]["ties"] == np.mean(moves == 0)
    assert summary["arms"]["wrong_emotion"]["off_target"]["share"] > 0.5


@pytest.mark.slow
def test_frontiers_hold_the_settings_that_tuning_tried(finished):
    summary = finished[0]
    for arm, frontier in summary["frontier"].items():
        tried = [t for t in summary["tuning"] if t["arm"] == arm]
        assert len(frontier["points"]) == max(1, len(tried))
        for point, trial in zip(frontier["points"], tried, strict=bool(tried)):
            assert (point["strength"], point["accuracy"]) == (trial["strength"], trial["accuracy"])
            assert point["gap"] == trial["fluency_gap_nats"]
        x = (np.arange(20_000) + 0.5) / 20_000 * summary["settings"]["frontier_limit_nats"]
        best = [np.where(abs(p["gap"]) <= x, p["accuracy"], 0) for p in frontier["points"]]
        assert frontier["area"] == pytest.approx(np.max(best, axis=0).mean(), abs=1e-3)
    assert summary["frontier"]["prompting"]["points"][0]["gap"] == 0
