import itertools

import numpy as np
import pytest
from scipy import stats

from emotrace.errors import DataError
from emotrace.formulas.statistics import cluster_bootstrap, paired_difference, proportion_interval


def clustered(seed: int, groups: int = 40, size: int = 6, spread: float = 1.0):
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(groups), size)
    return rng.normal(size=groups * size) + spread * rng.normal(size=groups)[clusters], clusters


def test_bootstrap_equals_a_loop_that_copies_whole_clusters():
    values, clusters = clustered(0, groups=30)
    result = cluster_bootstrap(values, clusters, draws=4000, seed=1)
    rng = np.random.default_rng(2)
    members = [values[clusters == g] for g in range(30)]
    means = [np.concatenate([members[g] for g in rng.integers(0, 30, 30)]).mean() for _ in range(4000)]
    low, high = np.quantile(means, (0.025, 0.975))
    assert result.estimate == pytest.approx(values.mean(), rel=1e-12)
    assert result.low == pytest.approx(low, abs=0.04)
    assert result.high == pytest.approx(high, abs=0.04)


def test_bootstrap_matches_the_normal_interval_of_cluster_means():
    values, clusters = clustered(3, groups=200)
    means = values.reshape(200, 6).mean(1)
    half = 1.96 * means.std(ddof=1) / np.sqrt(200)
    result = cluster_bootstrap(values, clusters, seed=0)
    assert (result.high - result.low) / 2 == pytest.approx(half, rel=0.07)
    naive = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert (result.high - result.low) / 2 > 1.5 * naive


def test_row_order_and_cluster_names_do_not_matter():
    values, clusters = clustered(4)
    order = np.random.default_rng(0).permutation(len(values))
    names = np.array([f"s{c:03d}" for c in clusters])
    one = cluster_bootstrap(values, clusters, seed=5)
    two = cluster_bootstrap(values[order], names[order], seed=5)
    assert (one.low, one.high) == pytest.approx((two.low, two.high), rel=1e-12)
    assert one == cluster_bootstrap(values, clusters, seed=5)


def test_unequal_clusters_keep_their_weight():
    result = cluster_bootstrap([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"], seed=0)
    assert result.estimate == 0.75
    assert (result.low, result.high) == (0.0, 1.0)


def test_all_successes_give_wilson_with_one_observation_per_cluster():
    result = proportion_interval(np.ones(360, bool), np.repeat(np.arange(60), 6), seed=0)
    z2 = stats.norm.ppf(0.975) ** 2
    assert (result.estimate, result.high, result.method) == (1.0, 1.0, "wilson")
    assert result.low == pytest.approx(60 / (60 + z2), rel=1e-9)
    mirrored = proportion_interval(np.zeros(360, bool), np.repeat(np.arange(60), 6), seed=0)
    assert (mirrored.low, mirrored.high) == pytest.approx((0.0, 1 - result.low), abs=1e-12)


def test_without_clustering_wilson_is_the_textbook_one():
    successes = np.arange(50) >= 3
    result = proportion_interval(successes, np.arange(50), seed=0)
    textbook = stats.binomtest(47, 50).proportion_ci(method="wilson")
    assert result.method == "wilson"
    assert (result.low, result.high) == pytest.approx((textbook.low, textbook.high), abs=2e-3)


def test_middle_is_the_bootstrap_and_edge_never_a_point():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 6)
    successes = rng.random(360) < 0.6
    assert proportion_interval(successes, clusters, seed=7) == cluster_bootstrap(successes, clusters, seed=7)
    for one_cluster in (np.ones(6), np.zeros(6), np.array([1, 1, 0, 1, 1, 1])):
        result = proportion_interval(one_cluster, np.zeros(6), seed=0)
        assert 0 <= result.low < result.high <= 1
        assert result.high - result.low > 0.5


def test_one_failure_does_not_narrow_the_interval_below_independence():
    successes = np.ones(360)
    successes[0] = 0
    result = proportion_interval(successes, np.repeat(np.arange(60), 6), seed=0)
    independent = stats.binomtest(359, 360).proportion_ci(method="wilson")
    assert result.low <= independent.low
    assert result.high >= independent.high


def test_paired_p_value_equals_enumerated_sign_flips():
    a = np.array([1.0, 2.0, 0.5, 3.0, 1.5, 2.5, 0.2, 1.1])
    b = np.array([0.5, 1.0, 1.0, 1.0, 1.4, 0.5, 0.4, 0.1])
    clusters = np.array([0, 0, 1, 1, 2, 3, 4, 5])
    difference = np.array([(a - b)[clusters == g].sum() for g in range(6)])
    flips = np.array(list(itertools.product((1, -1), repeat=6))) @ difference
    tail = min(1.0, 2 * np.mean(flips >= difference.sum() - 1e-12))
    result = paired_difference(a, b, clusters, seed=0)
    assert result.p == pytest.approx(tail)
    assert result.difference == pytest.approx(np.mean(a - b))
    assert result.interval.method == "bootstrap"
    assert result.interval == cluster_bootstrap(a - b, clusters, seed=0)


def test_paired_uses_the_pairing():
    values, clusters = clustered(1, spread=3.0)
    shifted = values + 0.2 + 0.1 * np.random.default_rng(9).normal(size=len(values))
    result = paired_difference(shifted, values, clusters, seed=0)
    assert 0.15 < result.interval.low < 0.2 < result.interval.high < 0.25
    assert result.p < 0.001


def test_paired_shares_at_the_edge_keep_a_width():
    clusters = np.repeat(np.arange(60), 6)
    result = paired_difference(np.ones(360), np.zeros(360), clusters, seed=0)
    assert (result.difference, result.interval.high, result.interval.method) == (1.0, 1.0, "square-and-add")
    assert 0.85 < result.interval.low < 0.95
    share = np.linspace(0, 0.6, 360)
    mixed = paired_difference(np.ones(360), share, clusters, seed=0)
    assert mixed.interval.low < 0.7 < mixed.interval.high
    same = paired_difference(np.ones(360), np.ones(360), clusters, seed=0)
    assert same.p == 1.0
    assert same.interval.low < 0 < same.interval.high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cluster_bootstrap([1.0, 2.0], ["a", "a"], seed=0), "at least 2"),
        (lambda: cluster_bootstrap([1.0, np.nan], ["a", "b"], seed=0), "not finite"),
        (lambda: cluster_bootstrap([], [], seed=0), "no values"),
        (lambda: cluster_bootstrap([1.0], ["a", "b"], seed=0), r"must both be \[N\]"),
        (lambda: proportion_interval([0.5, 1.0], ["a", "b"], seed=0), "true or false"),
        (lambda: paired_difference([1.0], [1.0, 2.0], ["a", "b"], seed=0), "align"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_clusters_of_one_share_do_not_give_an_interval_of_no_width():
    """Each of ten scenarios has one success among six: resampling scenarios cannot move that."""
    successes = [reply == 0 for _ in range(10) for reply in range(6)]
    found = proportion_interval(successes, [scene for scene in range(10) for _ in range(6)], seed=0)
    assert found.method == "wilson"
    assert found.low < 1 / 6 < found.high
