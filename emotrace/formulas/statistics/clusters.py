"""From rows to clusters: what every interval and test here resamples or flips."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotrace.errors import DataError

FLIPS = 9999
"""Sign flips of a test; where there are no more of them, all are tried."""
CELLS = 4_000_000
"""Numbers of one block of resamples, at most (32 MB)."""


def cluster_sums(values: Any, clusters: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums per cluster of ``values`` [N, ...] and numbers of rows, [G, ...] and [G] float64.

    Clusters are in sorted order, so that the order of rows never changes a result. Raises ``DataError`` for lengths
    that differ, no rows, or values that are not finite.
    """
    rows = np.asarray(values, dtype=np.float64)
    index, counts = cluster_index(clusters)
    if not rows.ndim or len(rows) != len(index):
        raise DataError(f"values and clusters must both be [N], got {rows.shape} and {index.shape}")
    if not len(rows):
        raise DataError("no values: an interval needs at least one reply")
    if not np.isfinite(rows).all():
        raise DataError(f"{int((~np.isfinite(rows)).sum())} of {rows.size} values are not finite; leave those rows out")
    sums = np.zeros((len(counts), *rows.shape[1:]))
    np.add.at(sums, index, rows)
    return sums, counts


def cluster_index(clusters: Any) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Place of each row's cluster [N] among the sorted clusters, and the rows of each [G]."""
    names = np.asarray(clusters)
    if names.ndim != 1:
        raise DataError(f"clusters must be [N], one per row, got {names.shape}")
    _, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    return index, counts.astype(np.float64)
