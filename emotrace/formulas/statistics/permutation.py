"""Tests over many components at once, and the place of an observed value among control draws.

Sign flips are of whole clusters, the same for every component, so that components stay as dependent as they are.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from emotrace.errors import DataError
from emotrace.formulas.statistics.clusters import CELLS, FLIPS, cluster_sums

Alternative = Literal["two-sided", "greater", "less"]
TIE = 1e-9
"""Sums of G clusters, standardised to within sqrt(G), that differ by less are equal: rounding parts flips that tie."""


@dataclass(frozen=True, eq=False)
class Discoveries:
    """What Benjamini and Hochberg's procedure gives: ``adjusted`` p values [K] and which are ``rejected`` [K]."""

    adjusted: NDArray[np.float64]
    rejected: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class MaxTest:
    """Every component against the best of all.

    Attributes:
        t: [K] mean over its standard error over clusters; infinite where all clusters are equal, 0 where all are 0.
        adjusted: [K] p values adjusted for the choice among K; the smallest is that of "the best one".
    """

    t: NDArray[np.float64]
    adjusted: NDArray[np.float64]


def benjamini_hochberg(p: Sequence[float] | NDArray[Any], *, rate: float = 0.05) -> Discoveries:
    """Rejections at false discovery rate ``rate`` among p values [K], with adjusted p values (``multipletests``).

    Source: Benjamini and Hochberg 1995. Raises ``DataError`` for no p values, or any outside [0, 1].
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"p values must be [K] within 0 and 1, got shape {values.shape}: {values!r:.80}")
    rejected, adjusted, _, _ = multipletests(values, alpha=rate, method="fdr_bh")
    return Discoveries(adjusted, rejected)


def sign_flip_test(
    values: NDArray[Any],
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    seed: int,
    alternative: Alternative = "two-sided",
    flips: int = FLIPS,
) -> NDArray[np.float64]:
    """Per component, p [K] of "each cluster's sign is chance": is the mean of ``values`` [N, K] zero?

    Flips the sign of whole ``clusters`` [N]: all 2**G ways where there are at most ``flips``, else that many random
    ones, the observed one counted with them. "Less" and "greater" are of the mean. Raises ``DataError`` for fewer than
    two clusters, values that are not finite or not [N, K].
    """
    standard = _standard(_sums(values, clusters))
    observed = _statistic(standard.sum(0), alternative)
    hits, total = np.zeros(len(observed)), 0
    for flipped in _flipped(standard, seed, flips):
        hits += (_statistic(flipped, alternative) >= observed - TIE).sum(0)
        total += len(flipped)
    return hits / total


def max_statistic_test(
    values: NDArray[Any],
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    seed: int,
    alternative: Alternative = "two-sided",
    flips: int = FLIPS,
) -> MaxTest:
    """Components of ``values`` [N, K] tested together, for choosing the best: Westfall and Young's single-step maxT.

    A component's statistic is its mean over the standard error of its ``clusters``' sums, so that one of large
    activations does not hide the others. Adjusted p [K]: how often the largest statistic of all components reaches the
    component's, over flips as in ``sign_flip_test``. Strong control of the family-wise error rate, whatever the
    dependence between components. Raises ``DataError`` as ``sign_flip_test``. Source: Westfall and Young 1993.
    """
    standard = _standard(_sums(values, clusters))
    groups, observed = len(standard), standard.sum(0)
    # flips leave a component's sum of squares as it is, so t grows with its standardised sum: comparing these will do
    share = np.square(observed) / groups
    with np.errstate(divide="ignore"):
        t = observed * np.sqrt((groups - 1) / (groups * np.clip(1 - share, 0.0, None)))
    t[share >= 1 - 1e-12] = np.copysign(np.inf, observed[share >= 1 - 1e-12])
    largest = [_statistic(flipped, alternative).max(1) for flipped in _flipped(standard, seed, flips)]
    maxima = np.sort(np.concatenate(largest))
    reached = len(maxima) - np.searchsorted(maxima, _statistic(observed, alternative) - TIE)
    return MaxTest(t, reached / len(maxima))


def draws_p(observed: float, draws: Sequence[float] | NDArray[Any], *, alternative: Alternative) -> float:
    """p of ``observed`` among control ``draws`` [R]: (1 + how many are as extreme) / (1 + R).

    Two-sided is twice the smaller of both sides, so R draws give no p under 2 / (1 + R) (one-sided 1 / (1 + R)).
    Raises ``DataError`` for no draws or values that are not finite. Source: Phipson and Smyth 2010.
    """
    values = np.asarray(draws, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (np.isfinite(values).all() and np.isfinite(observed)):
        raise DataError(f"one finite value and one or more finite draws [R], got {observed!r} and {values!r:.80}")
    greater, less = ((1 + hits.sum()) / (1 + len(values)) for hits in (values >= observed, values <= observed))
    return float({"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative])


def _sums(values: NDArray[Any], clusters: Any) -> NDArray[np.float64]:
    if np.ndim(values) != 2:
        raise DataError(f"values must be [N, K], a row per prompt and a column per component, got {np.shape(values)}")
    sums, _ = cluster_sums(values, clusters)
    if len(sums) < 2:
        raise DataError(f"a sign-flip test needs at least 2 scenarios, got {len(sums)}")
    return sums


def _standard(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cluster sums [G, K], each component's of length 1 (0 where all are 0)."""
    length = np.linalg.norm(sums, axis=0)
    return sums / np.where(length > 0, length, 1.0)


def _statistic(flipped: NDArray[np.float64], alternative: Alternative) -> NDArray[np.float64]:
    """Larger is more extreme."""
    return {"two-sided": np.abs, "greater": np.positive, "less": np.negative}[alternative](flipped)


def _flipped(standard: NDArray[np.float64], seed: int, flips: int) -> Iterator[NDArray[np.float64]]:
    """Sums over clusters [G, K] under sign flips, in blocks [R, K]; what was observed is among them."""
    groups, components = standard.shape
    block = max(1, CELLS // max(groups, components))
    exact = 2**groups <= flips
    rng = np.random.default_rng(seed)
    total = 2**groups if exact else flips
    if not exact:
        yield standard.sum(0, keepdims=True)
    for start in range(0, total, block):
        size = min(block, total - start)
        if exact:
            bits = (np.arange(start, start + size)[:, None] >> np.arange(groups)) & 1
        else:
            bits = rng.integers(0, 2, size=(size, groups))
        yield (1.0 - 2.0 * bits) @ standard
