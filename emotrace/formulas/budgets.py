"""How a budget of components is shared among sublayers (README, The method)."""

import numpy as np

from emotrace.errors import CircuitError


def largest_remainder(weights: np.ndarray, total: int, capacity: int) -> np.ndarray:
    """Integers that sum to ``total`` in proportion to ``weights``, none beyond ``capacity``.

    Shares are rounded by the largest remainder (ties to the lower index); what exceeds a sublayer's capacity is
    redistributed among those with room, in proportion to their weights.

    Args:
        weights: float ``[L]``; only positive ones count.
        total: components to share.
        capacity: components in one sublayer.

    Returns:
        int64 ``[L]``.

    >>> largest_remainder(np.array([6.0, 3.0, -2.0, 1.0]), 10, capacity=5).tolist()
    [5, 4, 0, 1]

    Raises:
        CircuitError: no positive weight, or more components asked for than the positive sublayers hold.
    """
    positive = np.maximum(np.asarray(weights, dtype=np.float64), 0.0)
    if not np.isfinite(weights).all():
        raise CircuitError("an influence is not finite; look at the directions and sigma it was measured with")
    if total < 0:
        raise CircuitError(f"a budget cannot be negative, got {total}")
    if not positive.any():
        raise CircuitError("no sublayer has a positive influence, so there is nothing to share the budget by")
    sublayers = int((positive > 0).sum())
    if total > capacity * sublayers:
        raise CircuitError(
            f"{total} components do not fit: {sublayers} sublayers of positive influence hold {capacity} each"
        )
    full = np.zeros(len(positive), dtype=bool)
    while True:
        open_weights = np.where(full, 0.0, positive)
        ideal = np.where(full, capacity, 0.0)
        if open_weights.any():
            ideal = ideal + (total - capacity * full.sum()) * open_weights / open_weights.sum()
        over = (ideal > capacity) & ~full
        if not over.any():
            break
        full |= over
    shares = np.floor(ideal + 1e-9).astype(np.int64)
    remainders = np.where((shares < capacity) & (positive > 0), ideal - shares, -1.0)
    for index in np.argsort(-remainders, kind="stable")[: total - int(shares.sum())]:
        shares[index] += 1
    return shares
