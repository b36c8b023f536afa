"""Intervals of means, shares and paired differences, resampling whole clusters."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from emotrace.errors import DataError
from emotrace.formulas.statistics.clusters import CELLS, FLIPS, cluster_sums

LEVEL = 0.95
FEW = 10
"""With fewer clusters than this that hold a success (or a failure), a percentile bootstrap of a share undercovers."""


@dataclass(frozen=True)
class Interval:
    """A point estimate with its 95 % interval; ``method`` is ``bootstrap``, ``wilson`` or ``square-and-add``."""

    estimate: float
    low: float
    high: float
    method: str


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b, its 95 % interval, and the two-sided p value of "each cluster's sign is chance"."""

    difference: float
    interval: Interval
    p: float


def cluster_bootstrap(
    values: Sequence[float] | NDArray[Any],
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    draws: int = 2000,
    seed: int,
) -> Interval:
    """Mean of ``values`` [N] with a percentile bootstrap interval that resamples whole ``clusters`` [N].

    The statistic of a resample is (sum of its clusters' sums) / (sum of their counts), so clusters of unequal size keep
    their weight. Raises ``DataError`` for lengths that differ, values that are not finite, or fewer than two clusters:
    variation between scenarios cannot be estimated from one.
    """
    sums, counts = _per_cluster(values, clusters)
    _enough(len(sums))
    result = stats.bootstrap(
        (sums, counts),
        _ratio,
        n_resamples=draws,
        batch=max(1, CELLS // len(sums)),
        vectorized=True,
        paired=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Interval(float(sums.sum() / counts.sum()), float(interval.low), float(interval.high), "bootstrap")


def proportion_interval(
    successes: Sequence[bool] | NDArray[Any],
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    seed: int,
    draws: int = 2000,
) -> Interval:
    """Share of ``successes`` [N] with its interval: cluster bootstrap in the middle, Wilson near 0 and 1.

    "Near" means that fewer than ``FEW`` clusters hold a success, or fewer than ``FEW`` a failure. Wilson's interval
    then takes n / design effect for n: the clustered variance of the share over the binomial one, both with one further
    cluster of average size that holds only the rarer outcome. From a handful of rare outcomes a design effect cannot be
    estimated; this pulls it to the worst case (a scenario's replies all agree), which it equals when every outcome is
    the same. It is kept within 1 and the largest cluster's size. One cluster is allowed and gives a wide interval.
    Raises ``DataError`` for lengths that differ, no values, or values other than 0 and 1.
    """
    sums, counts = _per_cluster(successes, clusters)
    if not np.isin(np.asarray(successes, dtype=np.float64), (0.0, 1.0)).all():
        raise DataError("successes must be true or false (1 or 0) per reply; use cluster_bootstrap for other values")
    if min((sums > 0).sum(), (sums < counts).sum()) >= FEW:
        resampled = cluster_bootstrap(successes, clusters, draws=draws, seed=seed)
        if resampled.low < resampled.high:  # every cluster of the same share resamples to a point
            return resampled
    low, high = effective_wilson(sums, counts)
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high), "wilson")


def effective_wilson(
    sums: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both ends of Wilson's interval on the effective sample size (``proportion_interval``).

    ``sums`` and ``counts`` are successes and replies per cluster, [..., G]; the ends are [...], one per dataset.
    """
    n = counts.sum(-1)
    share = sums.sum(-1) / n
    effective = n / _design_effect(sums, counts)
    low, high = proportion_confint(share * effective, effective, alpha=1 - LEVEL, method="wilson")
    return np.clip(low, 0.0, share), np.clip(high, share, 1.0)


def paired_difference(
    a: Sequence[float] | NDArray[Any],
    b: Sequence[float] | NDArray[Any],
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    seed: int,
    draws: int = 2000,
) -> PairedDifference:
    """Mean of ``a`` - ``b`` (both [N], aligned row by row) with interval and p value, by ``clusters`` [N].

    The interval is the cluster bootstrap of the differences. When ``a`` or ``b`` is a true/false outcome near 0 or 1
    (see ``proportion_interval``), that bootstrap can collapse to a point; then the two shares' own intervals are
    combined by Newcombe's square-and-add (1998, method 10 without its correlation term, so it errs on the wide side).
    The p value flips the sign of whole clusters' differences (all flips when there are at most ``FLIPS`` of them).
    Raises ``DataError`` for lengths that differ, values that are not finite, or fewer than two clusters.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise DataError(f"paired values must align row by row: a has shape {left.shape}, b {right.shape}")
    interval = cluster_bootstrap(left - right, clusters, draws=draws, seed=seed)
    own = [_own_interval(values, clusters, draws, seed) for values in (left, right)]
    if any(part.method == "wilson" for part in own):
        first, second = own
        below = np.hypot(first.estimate - first.low, second.high - second.estimate)
        above = np.hypot(first.high - first.estimate, second.estimate - second.low)
        middle = interval.estimate
        interval = Interval(middle, max(-1.0, middle - below), min(1.0, middle + above), "square-and-add")
    sums_a, counts = _per_cluster(left, clusters)
    sums_b, _ = _per_cluster(right, clusters)
    test = stats.permutation_test(
        (sums_a / counts.sum(), sums_b / counts.sum()),
        _difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        batch=max(1, CELLS // len(counts)),
        rng=np.random.default_rng(seed),
    )
    return PairedDifference(interval.estimate, interval, float(test.pvalue))


def _own_interval(values: NDArray[np.float64], clusters: Any, draws: int, seed: int) -> Interval:
    if np.isin(values, (0.0, 1.0)).all():
        return proportion_interval(values, clusters, draws=draws, seed=seed)
    return cluster_bootstrap(values, clusters, draws=draws, seed=seed)


def _per_cluster(values: Any, clusters: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and counts [G] of values [N]."""
    flat = np.asarray(values, dtype=np.float64)
    if flat.ndim != 1:
        raise DataError(f"values and clusters must both be [N], got {flat.shape} and {np.shape(clusters)}")
    return cluster_sums(flat, clusters)


def _enough(clusters: int) -> None:
    if clusters < 2:
        raise DataError(f"an interval over scenarios needs at least 2 of them, got {clusters}: evaluate more scenarios")


def _design_effect(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    mostly = sums.sum(-1) * 2 >= counts.sum(-1)
    size = counts.mean(-1)
    sums = np.append(sums, np.where(mostly, 0.0, size)[..., None], -1)
    counts = np.append(counts, size[..., None], -1)
    n, groups = counts.sum(-1), counts.shape[-1]
    share = sums.sum(-1) / n
    clustered = groups / (groups - 1) * np.square(sums - share[..., None] * counts).sum(-1) / n**2
    return np.clip(clustered / (share * (1 - share) / n), 1.0, counts.max(-1))


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(sums.sum(axis=axis) / counts.sum(axis=axis))


def _difference(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray((a - b).sum(axis=axis))
