"""Dose curves: the right components are asked for, and bands hold the mean."""

import numpy as np
import pytest
import torch

from emotrace.errors import DataError
from emotrace.steps.components import Scores
from emotrace.steps.curves import dose_curve, random_components

GENERATOR = torch.Generator().manual_seed(0)
SCORES = Scores(
    ("joy", "awe"),
    "analytic",
    torch.rand(2, 3, 8, generator=GENERATOR, dtype=torch.float64),
    torch.rand(2, 3, 20, generator=GENERATOR, dtype=torch.float64),
)


def test_random_components_are_outside_the_best_and_repeatable():
    best = set(SCORES.top("heads", "joy", 6))
    drawn = random_components(SCORES, "heads", "joy", 6, 1)
    assert len(set(drawn)) == 6
    assert not best & set(drawn)
    assert drawn == random_components(SCORES, "heads", "joy", 6, 1)
    assert drawn != random_components(SCORES, "heads", "joy", 6, 2)


def test_curve_asks_for_what_it_reports():
    clusters = {e: [f"s{i}" for i in range(12)] for e in SCORES.emotions}

    def measure(emotion, variants):
        scores = SCORES.heads[SCORES.emotions.index(emotion)]
        sums = [[sum(float(scores[c]) for c in part) for part in components] for components in variants]
        return np.array(sums) + 0.001 * np.arange(12)

    curve = dose_curve(SCORES, "heads", (1, 4, 16), 5, clusters, measure, seed=0)
    assert curve.ks == (1, 4)
    summary = curve.summary("sum of scores", 0)
    for row, k in enumerate((1, 4)):
        expected = np.mean([sum(SCORES.heads[e].flatten().topk(k).values.tolist()) for e in range(2)]) + 0.0055
        assert abs(summary["top"][row] - expected) < 1e-9
        low, high = summary["top_band"][row]
        assert low <= summary["top"][row] <= high
        assert summary["random"][row] < summary["top"][row]
    assert abs(summary["baseline"] - 0.0055) < 1e-12
    assert set(summary["by_emotion"]) == {"joy", "awe"}
    for ks in ((7, 16), (0,)):
        with pytest.raises(DataError, match="a quarter of the model's heads"):
            dose_curve(SCORES, "heads", ks, 5, clusters, measure, seed=0)
