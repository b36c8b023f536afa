"""How much of a behaviour a circuit accounts for: faithfulness, its areas over budgets, completeness (README, Quality).

With m a measure (here a reading of the final state, or judged accuracy), m(C) its mean with everything outside the
circuit C ablated, m(0) with everything ablated and m(M) with nothing ablated::

    f(C) = (m(C) - m(0)) / (m(M) - m(0))

Sources: Wang et al. 2023 (IOI; faithfulness, completeness, minimality), Mueller et al. 2025 (MIB; CPR and CMD).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from emotrace.errors import DataError
from emotrace.formulas.statistics import LEVEL

Floats = NDArray[np.float64]
LEAST_SEPARATION = 3.0
"""Standard errors that m(M) - m(0) must be away from 0; below, a ratio over it says nothing."""

AREAS = ("cpr", "cmd_linear", "cpr_log", "cmd_log")


@dataclass(frozen=True)
class Ratio:
    """Faithfulness values with 95 % intervals over scenarios, or the reason why there are none.

    Attributes:
        values: float64 ``[K]``; NaN where undefined.
        low: ``[K]``.
        high: ``[K]``.
        areas: name -> (estimate, low, high); empty where shares were not given.
        undefined: why nothing is defined, or "".
    """

    values: Floats
    low: Floats
    high: Floats
    areas: dict[str, tuple[float, float, float]]
    undefined: str = ""


def faithfulness(
    ablated: Floats,
    empty: Floats,
    full: Floats,
    *,
    shares: Floats | None = None,
    draws: int = 2000,
    seed: int,
) -> Ratio:
    """Faithfulness of K circuits, as ratios of means over G scenarios, with a percentile bootstrap of scenarios.

    The percentiles are widened for few scenarios (:func:`widened_level`).

    Args:
        ablated: ``[K, G]``, the measure with everything outside each circuit ablated, one value per scenario.
        empty: ``[G]``, with everything ablated.
        full: ``[G]``, with nothing ablated.
        shares: ``[K]`` rising shares of components, from 0 to 1; gives areas under the curve as well.
        draws: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: shapes that do not match, fewer than two scenarios, or values that are not finite.
    """
    ablated, empty, full = (np.asarray(x, dtype=np.float64) for x in (ablated, empty, full))
    if ablated.ndim != 2 or empty.shape != full.shape or ablated.shape[1:] != empty.shape:
        raise DataError(f"faithfulness takes [K, G], [G] and [G], got {ablated.shape}, {empty.shape}, {full.shape}")
    if len(empty) < 2:
        raise DataError(f"faithfulness needs two or more scenarios, got {len(empty)}")
    if not all(np.isfinite(x).all() for x in (ablated, empty, full)):
        raise DataError("a measure is not finite; look at the ablated model's states")
    apart = full - empty
    error = float(stats.sem(apart))
    if abs(apart.mean()) < LEAST_SEPARATION * error or not apart.any():
        nothing = np.full(len(ablated), np.nan)
        why = (
            f"the whole model's measure is {apart.mean():.3g} above that of nothing, under {LEAST_SEPARATION:g} "
            f"standard errors ({error:.2g})"
        )
        return Ratio(nothing, nothing, nothing, {}, why)
    places = None if shares is None else _checked(np.asarray(shares, dtype=np.float64), len(ablated))

    def statistic(rows: NDArray[np.int64], axis: int = -1) -> Floats:
        """Ratios, then areas: ``[K (+ 4), ...]``."""
        bottom = empty[rows].mean(axis)
        ratios = (ablated[:, rows].mean(axis) - bottom) / (full[rows].mean(axis) - bottom)
        return ratios if places is None else np.concatenate([ratios, areas(places, ratios)])

    rows = np.arange(len(empty))
    found = statistic(rows)
    interval = stats.bootstrap(
        (rows,),
        statistic,
        n_resamples=draws,
        vectorized=True,
        confidence_level=widened_level(len(empty)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    k = len(ablated)
    low, high = np.asarray(interval.low), np.asarray(interval.high)
    triples = [(float(found[at]), float(low[at]), float(high[at])) for at in range(k, len(found))]
    return Ratio(found[:k], low[:k], high[:k], dict(zip(AREAS, triples, strict=False)))


def widened_level(scenarios: int) -> float:
    """The nominal level at which a percentile bootstrap of a mean over few scenarios covers 95 %.

    Percentiles of resampled means are too narrow by sqrt((n - 1) / n), and normal where Student's t is due. Source:
    Hesterberg 2015, "What teachers should know about the bootstrap", the expanded percentile interval.
    """
    t = stats.t.ppf((1 + LEVEL) / 2, scenarios - 1) * (scenarios / (scenarios - 1)) ** 0.5
    return float(1 - 2 * stats.norm.sf(t))


def areas(shares: Floats, values: Floats) -> Floats:
    """CPR (area under f) and CMD (area of ``|1 - f|``) over the share of components and its logarithm: ``[4, ...]``.

    Trapezoids, divided by the length of the axis, so that a circuit that is faithful at every size has CPR 1 and CMD 0.
    The logarithmic axis begins at the smallest positive share.

    Args:
        shares: ``[K]`` rising, from 0 to 1.
        values: f, ``[K, ...]``.
    """
    positive = shares > 0
    logs = np.log(shares[positive])
    missing = np.abs(1 - values)
    return np.stack(
        [
            np.trapezoid(values, shares, axis=0),
            np.trapezoid(missing, shares, axis=0),
            np.trapezoid(values[positive], logs, axis=0) / (logs[-1] - logs[0]),
            np.trapezoid(missing[positive], logs, axis=0) / (logs[-1] - logs[0]),
        ]
    )


def _checked(shares: Floats, count: int) -> Floats:
    rising = bool((np.diff(shares) > 0).all())
    if shares.shape != (count,) or count < 3 or not rising or shares[0] != 0 or shares[-1] != 1:
        raise DataError(f"areas need a share for each of {count} circuits, rising from 0 to 1, got {shares.tolist()}")
    return shares
