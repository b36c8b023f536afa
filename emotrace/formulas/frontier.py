"""Success against fluency over strengths: which settings no other one beats, and one number for all of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emotrace.errors import DataError


def on_frontier(success: Sequence[float], gap: Sequence[float | None]) -> list[bool]:
    """Whether each setting [N] is one that no other setting beats.

    Another beats it with a ``success`` [N] that is no less and a ``|gap|`` [N] that is no more, one of them truly
    better. A setting without a gap (None: no reply to measure) is never on the frontier. Raises ``DataError`` for
    lengths that differ and values that are not finite.
    """
    gains, gaps = _checked(success, gap)
    no_worse = (gains[None] >= gains[:, None]) & (gaps[None] <= gaps[:, None])
    better = (gains[None] > gains[:, None]) | (gaps[None] < gaps[:, None])
    return (np.isfinite(gaps) & ~(no_worse & better).any(1)).tolist()


def area_within(success: Sequence[float], gap: Sequence[float | None], *, limit: float) -> float:
    """Mean over allowed gaps from 0 to ``limit`` of the best ``success`` [N] whose ``|gap|`` [N] is within the allowed.

    It is 0 where no setting is within, and 1 for a setting that always succeeds without any gap. Raises ``DataError``
    as :func:`on_frontier`, or for a limit that is not positive.
    """
    if not limit > 0:
        raise DataError(f"limit {limit}: the allowed gap runs from 0 to something positive")
    gains, gaps = _checked(success, gap)
    order = np.argsort(gaps)
    order = order[gaps[order] <= limit]
    best = np.maximum.accumulate(gains[order])
    return float(best @ np.diff([*gaps[order], limit]) / limit) if len(order) else 0.0


def _checked(success: Sequence[float], gap: Sequence[float | None]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gains = np.asarray(success, dtype=np.float64)
    gaps = np.abs(np.array([np.inf if value is None else value for value in gap], dtype=np.float64))
    if gains.shape != gaps.shape:
        raise DataError(f"a success and a gap for each setting, got {gains.shape} and {gaps.shape}")
    if not np.isfinite(gains).all() or np.isnan(gaps).any():
        raise DataError("successes and gaps must be numbers; give None for a gap that could not be measured")
    return gains, gaps
