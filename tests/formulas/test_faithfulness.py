"""Faithfulness and its areas against loops, scipy and closed forms."""

import numpy as np
import pytest
from scipy import integrate

from emotrace.errors import DataError
from emotrace.formulas.faithfulness import AREAS, areas, faithfulness, widened_level

SHARES = np.array([0.0, 0.01, 0.05, 0.2, 0.5, 1.0])


def measures(groups=40, seed=0):
    """Noisy measures of six nested circuits; the first is empty, the last the model."""
    rng = np.random.default_rng(seed)
    scene = rng.normal(0, 1, groups)
    level = np.array([0.0, 0.5, 0.9, 1.1, 1.0, 1.0])[:, None] * 4
    return level + scene + rng.normal(0, 0.3, (6, groups))


def test_values_are_ratios_of_means():
    m = measures()
    found = faithfulness(m, m[0], m[-1], shares=SHARES, seed=0)
    whole = np.mean([b - a for a, b in zip(m[0], m[-1], strict=True)])
    for row, value in zip(m, found.values, strict=True):
        assert value == pytest.approx(np.mean([x - a for a, x in zip(m[0], row, strict=True)]) / whole, rel=1e-12)
    assert found.values[0] == pytest.approx(0)
    assert found.values[-1] == pytest.approx(1)
    assert tuple(found.areas) == AREAS
    assert not found.undefined


def test_intervals_are_a_paired_bootstrap_over_scenarios():
    m = measures()
    found = faithfulness(m, m[0], m[-1], shares=SHARES, seed=0, draws=4000)
    rng = np.random.default_rng(9)
    ratios, totals = [], []
    for _ in range(4000):
        rows = [int(rng.integers(0, m.shape[1])) for _ in range(m.shape[1])]
        means = m[:, rows].mean(1)
        f = (means - means[0]) / (means[-1] - means[0])
        ratios.append(f)
        totals.append(integrate.trapezoid(f, SHARES))
    tail = 50 * (1 - widened_level(m.shape[1]))
    low, high = np.percentile(ratios, [tail, 100 - tail], axis=0)
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)
    assert found.areas["cpr"][1:] == pytest.approx(np.percentile(totals, [tail, 100 - tail]), abs=0.01)


def test_few_scenarios_are_covered_too():
    """Plain percentiles of ten resampled values cover 90 to 91 %; a mean is a ratio over one."""
    rng = np.random.default_rng(3)
    covered, plain = [], []
    for trial in range(400):
        values = rng.normal(1, 0.5, 10)
        found = faithfulness(values[None], np.zeros(10), np.ones(10), seed=trial, draws=999)
        covered.append(found.low[0] <= 1 <= found.high[0])
        means = rng.choice(values, (999, 10)).mean(1)
        plain.append(np.percentile(means, 2.5) <= 1 <= np.percentile(means, 97.5))
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(plain) < np.mean(covered)
    assert widened_level(60) == pytest.approx(0.957, abs=0.001)


def test_areas_in_closed_form_and_against_scipy():
    logs = np.log(SHARES[1:])
    assert areas(SHARES, np.ones(6)) == pytest.approx([1, 0, 1, 0])
    assert areas(SHARES, SHARES) == pytest.approx(
        [0.5, 0.5, *(integrate.trapezoid(y, logs) / (logs[-1] - logs[0]) for y in (SHARES[1:], 1 - SHARES[1:]))]
    )
    above = areas(SHARES, np.full(6, 1.5))  # too much is as unfaithful as too little
    assert above == pytest.approx([1.5, 0.5, 1.5, 0.5])
    stacked = areas(SHARES, np.stack([np.ones(6), SHARES], 1))
    assert stacked[:, 0] == pytest.approx([1, 0, 1, 0])
    assert stacked[0, 1] == pytest.approx(0.5)


def test_a_model_that_does_not_stand_out_gives_no_ratio():
    rng = np.random.default_rng(1)
    empty = rng.normal(0, 1, 30)
    full = empty + rng.normal(0, 1, 30) * 0.9
    found = faithfulness(np.stack([empty, full]), empty, full, seed=0)
    assert np.isnan(found.values).all()
    assert "standard errors" in found.undefined
    assert faithfulness(empty[None], empty, empty, seed=0).undefined


@pytest.mark.parametrize(
    ("ablated", "empty", "full", "shares", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3), np.ones(4), None, r"\[K, G\]"),
        (np.zeros((2, 1)), np.zeros(1), np.ones(1), None, "two or more scenarios"),
        (np.full((2, 3), np.nan), np.zeros(3), np.ones(3), None, "not finite"),
        (np.zeros((3, 3)), np.zeros(3), np.arange(3) + 9.0, [0.0, 0.5, 0.9], "rising from 0 to 1"),
        (np.zeros((3, 3)), np.zeros(3), np.arange(3) + 9.0, [0.0, 0.5, 0.5], "rising from 0 to 1"),
    ],
)
def test_bad_input_is_refused(ablated, empty, full, shares, message):
    with pytest.raises(DataError, match=message):
        faithfulness(ablated, empty, full, shares=None if shares is None else np.array(shares), seed=0)
