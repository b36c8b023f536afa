"""How often the 95 % intervals of a share hold it: `python -m benchmarks coverage`.

Replies are drawn in clusters (scenarios) whose own chance of success is beta distributed around the share; the
correlation is that between two replies of a cluster. "Bootstrap" is `cluster_bootstrap` alone and "Wilson" the other
interval alone; "used" is `proportion_interval`, which takes one or the other by how many clusters hold a success and a
failure. Width is the mean width of what is used. Ragged clusters hold 1 to 11 replies. The intervals are the same, seen
from the other end, for a share and its complement. With 5,000 datasets a row, a coverage near 95 % has a standard error
of 0.3 points.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import keep
from emotrace.formulas.statistics import FEW, LEVEL, effective_wilson

DATASETS = 5000
RESAMPLES = 2000
SEEDS = 50
"""Resamplings of a row, each shared by the datasets of a batch; one for all would leave its own error in every one."""
MIDDLE = (0.2, 0.5, 0.9)
EDGE = (0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
SIZES: tuple[int | str, ...] = (3, 6, 12, "ragged")
EDGE_SIZES: tuple[int | str, ...] = (3, 12)
CORRELATIONS = (0.05, 0.3, 0.6)
GROUPS = (60, 120)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Coverage:
    """Shares of datasets whose interval holds the true share, in percent, and the mean width of the interval used.

    ``switched`` is the share of datasets in which Wilson's interval is the one used.
    """

    bootstrap: float
    wilson: float
    used: float
    switched: float
    width: float


def drawn(
    rng: np.random.Generator, datasets: int, groups: int, size: int | str, share: float, correlation: float
) -> tuple[Floats, Floats]:
    """Successes and replies per cluster, both [datasets, groups]: beta-binomial with the given correlation."""
    ragged = rng.integers(1, 12, size=(datasets, groups))
    counts = ragged if isinstance(size, str) else np.full((datasets, groups), size)
    total = 1 / correlation - 1
    chance = rng.beta(share * total, (1 - share) * total, size=counts.shape) if share < 1 else np.ones(counts.shape)
    return rng.binomial(counts, chance).astype(np.float64), counts.astype(np.float64)


def bootstrap(sums: Floats, counts: Floats, *, seed: int, resamples: int = RESAMPLES) -> tuple[Floats, Floats]:
    """Both ends of `cluster_bootstrap` for many datasets [D, G] at once: the same resamples, as weights of clusters."""
    groups = sums.shape[1]
    picked = np.random.default_rng(seed).integers(0, groups, (resamples, groups))
    weights = np.zeros((resamples, groups))
    np.add.at(weights, (np.arange(resamples)[:, None], picked), 1.0)
    ratios = (sums @ weights.T) / (counts @ weights.T)
    low, high = np.quantile(ratios, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=1)
    return low, high


def coverage(
    groups: int, size: int | str, share: float, correlation: float, *, datasets: int = DATASETS, seed: int = 0
) -> Coverage:
    """Coverage over ``datasets`` simulated ones."""
    rng = np.random.default_rng((seed, groups, len(str(size)), round(1000 * share), round(1000 * correlation)))
    parts = []
    for part in range(SEEDS):
        sums, counts = drawn(rng, datasets // SEEDS, groups, size, share, correlation)
        edge = np.minimum((sums > 0).sum(1), (sums < counts).sum(1)) < FEW
        resampled, wilson = np.array(bootstrap(sums, counts, seed=part)), np.array(effective_wilson(sums, counts))
        used = np.where(edge, wilson, resampled)
        inside = [(low <= share + 1e-12) & (share - 1e-12 <= high) for low, high in (resampled, wilson, used)]
        parts.append([*(held.mean() for held in inside), edge.mean(), (used[1] - used[0]).mean()])
    means = np.array(parts).mean(0)
    return Coverage(*(100 * means[:4]).tolist(), float(means[4]))


def row(groups: int, size: int | str, share: float, correlation: float, datasets: int) -> dict[str, Any]:
    """A row of a table."""
    found = coverage(groups, size, share, correlation, datasets=datasets)
    return {
        "clusters": groups,
        "replies in each": size,
        "share": share,
        "correlation": correlation,
        "bootstrap, %": found.bootstrap,
        "Wilson, %": found.wilson,
        "used, %": found.used,
        "Wilson is used, %": found.switched,
        "width": found.width,
    }


def main(*, datasets: int = DATASETS, groups: tuple[int, ...] = GROUPS) -> str:
    """Simulate and keep the tables."""
    tables = [
        (
            f"Shares from {shares[0]:g} to {shares[-1]:g}",
            [row(*setting, datasets) for setting in product(groups, sizes, shares, CORRELATIONS)],
        )
        for shares, sizes in ((MIDDLE, SIZES), (EDGE, EDGE_SIZES))
    ]
    return keep("coverage", "Coverage of the intervals of a share", tables, __doc__)
