"""How far judges agree beyond chance, on labels without an order, with intervals that resample scenarios."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import krippendorff
import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.inter_rater import cohens_kappa

from emotrace.errors import DataError
from emotrace.formulas.statistics.clusters import cluster_index, cluster_sums
from emotrace.formulas.statistics.intervals import LEVEL, Interval, proportion_interval

Labels = Sequence[Hashable | None]
Table = NDArray[np.float64]


def cohen_kappa(a: Labels, b: Labels, clusters: Sequence[Hashable], *, seed: int, draws: int = 2000) -> Interval | None:
    """Cohen's kappa of two judges' labels ``a`` and ``b`` [N], over the replies that both labelled (None: no label).

    The interval resamples whole ``clusters`` [N] (percentiles of ``draws`` resamples). Where the judges differ in so
    few scenarios that this would undercover (``proportion_interval``), Wilson's ends of the share of replies in dispute
    take its place, with chance agreement held at its estimate. None where kappa is undefined: no reply with two labels,
    or one label throughout. Raises ``DataError`` for lengths that differ. Source: Cohen 1960; statsmodels.
    """
    codes, size, groups = _codes([a, b], clusters)
    both = (codes >= 0).all(0)
    codes, groups = codes[:, both], groups[both]
    tables = np.eye(size)[codes[0]][:, :, None] * np.eye(size)[codes[1]][:, None, :]
    if not _varies(tables.sum(0), _kappa_chance):
        return None
    estimate = float(cohens_kappa(tables.sum(0), return_results=False))
    return _interval(estimate, tables, codes[0] != codes[1], groups, _kappa_chance, seed, draws)


def krippendorff_alpha(
    ratings: Sequence[Labels], clusters: Sequence[Hashable], *, seed: int, draws: int = 2000
) -> Interval | None:
    """Krippendorff's alpha (nominal) of J judges' labels ``ratings`` [J, N]; None is a missing label.

    Replies with fewer than two labels do not count. Interval and undefined cases as for ``cohen_kappa``, a reply being
    in dispute when any two of its labels differ. Source: Krippendorff 2011, "Computing Krippendorff's alpha
    reliability"; the ``krippendorff`` package.
    """
    codes, size, groups = _codes(ratings, clusters)
    counts = (codes[:, :, None] == np.arange(size)).sum(0).astype(np.float64)
    paired = counts.sum(1) >= 2
    counts, groups = counts[paired], groups[paired]
    others = (counts.sum(1) - 1)[:, None, None]
    tables = (counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(size)) / others
    if not _varies(tables.sum(0), _alpha_chance):
        return None
    estimate = float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))
    return _interval(estimate, tables, (counts > 0).sum(1) > 1, groups, _alpha_chance, seed, draws)


def _interval(
    estimate: float,
    tables: Table,
    disputed: NDArray[np.bool_],
    groups: NDArray[np.intp],
    chance: Callable[[Table], NDArray[np.float64]],
    seed: int,
    draws: int,
) -> Interval:
    """1 - disagreement / chance disagreement, from tables [N, L, L] that add up over replies."""
    share = proportion_interval(disputed, groups, seed=seed)
    if share.method == "wilson":
        per_disputed = (1 - estimate) / share.estimate if share.estimate else 1 / float(chance(tables.sum(0)))
        low, high = 1 - per_disputed * share.high, 1 - per_disputed * share.low
        return Interval(estimate, max(-1.0, min(low, estimate)), min(1.0, max(high, estimate)), "wilson")
    sums, _ = cluster_sums(tables, groups)
    picked = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    resampled = np.tensordot(picked, sums, 1)
    values = 1 - _disagreement(resampled) / chance(resampled)
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(estimate, float(low), float(high), "bootstrap")


def _codes(ratings: Sequence[Labels], clusters: Any) -> tuple[NDArray[np.intp], int, NDArray[np.intp]]:
    """Labels as numbers [J, N], -1 where missing; how many labels there are; each reply's cluster [N]."""
    groups, _ = cluster_index(clusters)
    lengths = {len(labels) for labels in ratings}
    if len(ratings) < 2 or lengths != {len(groups)}:
        raise DataError(f"two or more judges' labels, one per reply and cluster, got lengths {lengths}, {len(groups)}")
    number: dict[Hashable | None, int] = {None: -1}
    codes = np.array([[number.setdefault(label, len(number) - 1) for label in labels] for labels in ratings], np.intp)
    return codes.reshape(len(ratings), -1), len(number) - 1, groups


def _varies(table: Table, chance: Callable[[Table], NDArray[np.float64]]) -> bool:
    """Whether there is anything to agree on; with one label alone there is not."""
    return bool(table.sum() > 1 and chance(table) > 1e-12)


def _disagreement(table: Table) -> NDArray[np.float64]:
    return 1 - np.trace(table, axis1=-2, axis2=-1) / table.sum((-2, -1))


def _kappa_chance(table: Table) -> NDArray[np.float64]:
    """Disagreement of two judges with these margins by chance; ``table`` [..., L, L]."""
    return np.asarray(1 - (table.sum(-1) * table.sum(-2)).sum(-1) / table.sum((-2, -1)) ** 2)


def _alpha_chance(table: Table) -> NDArray[np.float64]:
    """Disagreement of two different labels drawn from all that were given; ``table`` [..., L, L]."""
    given, total = table.sum(-1), table.sum((-2, -1))
    return np.asarray(1 - (given * (given - 1)).sum(-1) / (total * (total - 1)))
