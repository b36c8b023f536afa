"""Agreement against published worked examples, statsmodels, scikit-learn and the krippendorff package."""

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from emotrace.errors import DataError
from emotrace.formulas.statistics import agreement, cohen_kappa, krippendorff_alpha

# Krippendorff 2011, "Computing Krippendorff's alpha reliability", example C: 4 observers, 12 units, missing values
WORKED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def judged(seed, scenarios=40, size=6, kept=0.8, labels=4, judges=2, missing=0.0):
    """Labels of judges that copy the first one with probability ``kept``, which varies by scenario."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(scenarios), size)
    chance = rng.beta(4 * kept, 4 * (1 - kept), size=scenarios)[clusters]
    first = rng.integers(0, labels, size=len(clusters))
    rows = [first]
    for _ in range(judges - 1):
        rows.append(np.where(rng.random(len(clusters)) < chance, first, rng.integers(0, labels, size=len(clusters))))
    words = [[None if rng.random() < missing else f"label {x}" for x in row] for row in rows]
    return words, clusters


def test_alpha_of_krippendorffs_worked_example():
    found = krippendorff_alpha(WORKED, range(12), seed=0)
    assert found.estimate == pytest.approx(0.743, abs=5e-4)
    assert found.low < found.estimate < found.high


def test_kappa_of_worked_examples():
    # a textbook example: 50 proposals, both yes 20, both no 15, 5 and 10 in dispute: observed 0.7, by chance 0.5
    a = ["yes"] * 25 + ["no"] * 25
    b = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(a, b, range(50), seed=0).estimate == pytest.approx(0.4)
    assert cohen_kappa(a, a, range(50), seed=0).estimate == 1.0


def test_kappa_is_scikit_learns_on_replies_that_both_labelled():
    (a, b), clusters = judged(0, missing=0.1)
    both = [i for i in range(len(a)) if a[i] is not None and b[i] is not None]
    assert 100 < len(both) < len(a)
    found = cohen_kappa(a, b, clusters, seed=0)
    assert found.estimate == pytest.approx(cohen_kappa_score([a[i] for i in both], [b[i] for i in both]))


def test_intervals_are_those_of_a_loop_that_copies_whole_scenarios():
    ratings, clusters = judged(1, judges=3, missing=0.1)
    codes = np.array([[np.nan if x is None else float(x[-1]) for x in row] for row in ratings])
    rng = np.random.default_rng(9)
    members = [np.flatnonzero(clusters == g) for g in range(40)]
    drawn = [np.concatenate([members[g] for g in rng.integers(0, 40, 40)]) for _ in range(1500)]
    alphas = [krippendorff.alpha(codes[:, rows], level_of_measurement="nominal") for rows in drawn]
    found = krippendorff_alpha(ratings, clusters, seed=0)
    assert found.method == "bootstrap"
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(alphas, (0.025, 0.975))), abs=0.012)
    whole, clusters = judged(2)
    a, b = (np.array([int(x[-1]) for x in row]) for row in whole)
    tables = (np.histogram2d(a[rows], b[rows], bins=(range(5), range(5)))[0] for rows in drawn)
    kappas = [cohens_kappa(table, return_results=False) for table in tables]
    found = cohen_kappa(*whole, clusters, seed=0)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(kappas, (0.025, 0.975))), abs=0.012)


def test_tables_of_resamples_give_the_packages_numbers():
    ratings, clusters = judged(3, scenarios=5, judges=3, missing=0.2)
    codes, size, _ = agreement._codes(ratings, clusters)
    counts = (codes[:, :, None] == np.arange(size)).sum(0).astype(float)
    counts = counts[counts.sum(1) >= 2]
    table = sum((np.outer(n, n) - np.diag(n)) / (n.sum() - 1) for n in counts)
    values = np.where(codes < 0, np.nan, codes.astype(float))
    expected = krippendorff.alpha(values, level_of_measurement="nominal")
    assert 1 - agreement._disagreement(table) / agreement._alpha_chance(table) == pytest.approx(expected)


def test_perfect_agreement_keeps_a_width():
    labels = [f"{i % 3}" for i in range(120)]
    clusters = np.repeat(np.arange(20), 6)
    kappa, alpha = cohen_kappa(labels, labels, clusters, seed=0), krippendorff_alpha([labels] * 3, clusters, seed=0)
    for found in (kappa, alpha):
        assert (found.estimate, found.high, found.method) == (1.0, 1.0, "wilson")
    # at most Wilson's 3.84 / (20 + 3.84) of replies in dispute, over the disagreement of labels drawn by chance
    assert kappa.low == pytest.approx(1 - 3.841459 / 23.841459 / (2 / 3), abs=1e-6)
    assert alpha.low == pytest.approx(1 - 3.841459 / 23.841459 / (1 - 3 * 120 * 119 / (360 * 359)), abs=1e-6)
    with_one = ["1", *labels[1:]]
    near = cohen_kappa(labels, with_one, clusters, seed=0)
    assert kappa.low > near.low
    assert near.low < near.estimate < near.high <= 1


def test_what_cannot_be_told_is_none():
    assert cohen_kappa(["a"] * 4, ["a"] * 4, range(4), seed=0) is None
    assert cohen_kappa(["a", None], [None, "a"], range(2), seed=0) is None
    assert krippendorff_alpha([["a", None], [None, "a"]], range(2), seed=0) is None
    assert krippendorff_alpha([["a"] * 4, ["a"] * 4, [None] * 4], range(4), seed=0) is None
    assert cohen_kappa(["a"] * 4, ["b"] * 4, range(4), seed=0).estimate == 0.0


def test_lengths_that_differ_are_refused():
    with pytest.raises(DataError, match="lengths"):
        cohen_kappa(["a"], ["a", "b"], range(2), seed=0)
    with pytest.raises(DataError, match="two or more"):
        krippendorff_alpha([["a", "b"]], range(2), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.5, 0.8, 0.97])
def test_intervals_cover(kept):
    (many, other), clusters = judged(7, scenarios=60_000, kept=kept)
    truth = cohen_kappa(many, other, clusters, seed=0, draws=2).estimate
    covered = 0
    for seed in range(400):
        (a, b), clusters = judged(100 + seed, scenarios=60, kept=kept)
        found = cohen_kappa(a, b, clusters, seed=seed, draws=1000)
        covered += found.low <= truth <= found.high
    assert covered / 400 >= 0.92
