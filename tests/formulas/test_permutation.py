"""Tests over many components against scipy, statsmodels and enumeration."""

import itertools

import numpy as np
import pytest
from scipy import stats

from emotrace.errors import DataError
from emotrace.formulas.statistics import (
    benjamini_hochberg,
    draws_p,
    max_statistic_test,
    paired_difference,
    permutation,
    sign_flip_test,
)


def made(groups, components=5, size=3, seed=0, shift=0.4):
    rng = np.random.default_rng(seed)
    clusters = rng.permutation(np.repeat(np.arange(groups), size))
    shared = rng.normal(size=(groups, components))[clusters]
    values = rng.normal(size=(len(clusters), components)) + shared + shift * np.arange(components)
    return values * 10.0 ** np.arange(components), clusters


def sums_of(values, clusters):
    return np.array([values[clusters == g].sum(0) for g in np.unique(clusters)])


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_sign_flips_of_few_clusters_are_scipys_exact_test(alternative):
    values, clusters = made(8)
    expected = stats.permutation_test(
        (sums_of(values, clusters),),
        lambda sums, axis: sums.sum(axis=axis),
        permutation_type="samples",
        alternative=alternative,
        n_resamples=np.inf,
        vectorized=True,
    ).pvalue
    found = sign_flip_test(values, clusters, seed=0, alternative=alternative)
    assert found == pytest.approx(expected, abs=1e-12)
    assert len(set(found.tolist())) > 2


@pytest.mark.parametrize("cells", [60, 4_000_000])
def test_random_sign_flips_estimate_the_exact_p(cells, monkeypatch):
    monkeypatch.setattr(permutation, "CELLS", cells)
    values, clusters = made(12, shift=0.15)
    exact = sign_flip_test(values, clusters, seed=0)
    assert np.all(exact * 2**12 % 1 == 0)
    drawn = sign_flip_test(values, clusters, seed=1, flips=4000)
    assert drawn == pytest.approx(exact, abs=4 * 0.5 / 4000**0.5)
    assert np.all(drawn >= 1 / 4001)
    assert not np.array_equal(drawn, exact)


def test_sign_flips_of_one_component_are_those_of_a_paired_difference():
    values, clusters = made(10, components=1)
    paired = paired_difference(values[:, 0], np.zeros(len(values)), clusters, seed=0)
    assert sign_flip_test(values, clusters, seed=0)[0] == pytest.approx(paired.p)


def test_order_of_rows_and_size_of_components_do_not_matter():
    values, clusters = made(20)
    order = np.random.default_rng(0).permutation(len(values))
    assert sign_flip_test(values[order], clusters[order], seed=3) == pytest.approx(
        sign_flip_test(values / 7, clusters, seed=3), abs=1e-12
    )


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_max_statistic_is_a_loop_over_all_flips(alternative):
    values, clusters = made(7, components=4)
    sums = sums_of(values, clusters)
    extreme = {"two-sided": np.abs, "greater": lambda t: t, "less": lambda t: -t}[alternative]

    def t(flipped):
        return stats.ttest_1samp(flipped, 0).statistic

    observed = extreme(t(sums))
    maxima = [extreme(t(sums * np.array(signs)[:, None])).max() for signs in itertools.product((1, -1), repeat=7)]
    expected = [np.mean(np.array(maxima) >= value - 1e-9) for value in observed]
    found = max_statistic_test(values, clusters, seed=0, alternative=alternative)
    assert found.t == pytest.approx(t(sums))
    assert found.adjusted == pytest.approx(expected, abs=1e-12)
    assert np.all(found.adjusted >= sign_flip_test(values, clusters, seed=0, alternative=alternative) - 1e-12)


def test_components_without_spread_or_without_values_are_handled():
    clusters = np.repeat(np.arange(6), 2)
    values = np.stack([np.ones(12), np.zeros(12), -np.ones(12)], 1)
    found = max_statistic_test(values, clusters, seed=0)
    assert found.t.tolist() == [np.inf, 0.0, -np.inf]
    assert found.adjusted.tolist() == [2 / 64, 1.0, 2 / 64]
    assert max_statistic_test(values, clusters, seed=0, alternative="greater").adjusted.tolist() == [2 / 64, 1.0, 1.0]


def test_best_of_many_null_components_is_significant_as_often_as_it_should_be():
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(15), 2)
    best, plain = [], []
    for seed in range(300):
        values = rng.normal(size=(30, 40)) + rng.normal(size=(15, 1))[clusters]
        best.append(max_statistic_test(values, clusters, seed=seed, flips=199).adjusted.min())
        plain.append(sign_flip_test(values, clusters, seed=seed, flips=199).min())
    assert np.mean(np.array(best) <= 0.05) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 300) ** 0.5)
    assert np.mean(np.array(plain) <= 0.05) > 0.25  # what the best of forty looks like without the adjustment


def test_benjamini_hochberg_is_the_step_up_of_the_paper():
    # Benjamini and Hochberg 1995, section 3.2: 15 p values, 4 rejected at 0.05 where Bonferroni rejects 3
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    found = benjamini_hochberg(p[::-1], rate=0.05)
    assert found.rejected.sum() == 4
    assert found.rejected[-4:].all()
    assert found.adjusted == pytest.approx(stats.false_discovery_control(p[::-1]))
    by_hand = [min(1.0, min(15 * p[j] / (j + 1) for j in range(i, 15))) for i in range(15)]
    assert found.adjusted[::-1] == pytest.approx(by_hand)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("observed", [-5.0, 0.3, 2.0, 7.0])
def test_p_among_draws_is_scipys_monte_carlo_test(observed, alternative):
    draws = np.round(np.random.default_rng(0).normal(size=19), 1)
    expected = stats.monte_carlo_test(
        [observed],
        lambda size: draws.reshape(size),
        lambda sample, axis: sample.sum(axis),
        n_resamples=19,
        alternative=alternative,
        vectorized=True,
    ).pvalue
    assert draws_p(observed, draws, alternative=alternative) == pytest.approx(min(1.0, expected))


def test_p_among_draws_counts_the_observed_value():
    assert draws_p(1.0, np.zeros(10), alternative="greater") == 1 / 11
    assert draws_p(1.0, np.zeros(10), alternative="two-sided") == 2 / 11
    assert draws_p(0.0, np.zeros(10), alternative="greater") == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_flip_test(np.ones(3), [0, 1, 2], seed=0), r"\[N, K\]"),
        (lambda: sign_flip_test(np.ones((3, 2)), [0, 0, 0], seed=0), "at least 2"),
        (lambda: max_statistic_test(np.full((2, 2), np.nan), [0, 1], seed=0), "not finite"),
        (lambda: max_statistic_test(np.ones((3, 2)), [0, 1], seed=0), "must both be"),
        (lambda: benjamini_hochberg([0.5, 1.5]), "within 0 and 1"),
        (lambda: benjamini_hochberg([0.5, np.nan]), "within 0 and 1"),
        (lambda: draws_p(1.0, [], alternative="greater"), "one or more"),
        (lambda: draws_p(np.nan, [1.0], alternative="greater"), "finite"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(DataError, match=message):
        call()
