"""How far judges of different kinds agree on the same replies."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from emotrace.errors import DataError
from emotrace.formulas.statistics import Interval, cohen_kappa, krippendorff_alpha
from emotrace.judges.base import ABSTAIN
from emotrace.steps.evaluate import JudgedReply

Labels = Mapping[str, Sequence[str | None]]


def agreement(replies: Sequence[JudgedReply], labels: Labels, *, seed: int) -> dict[str, Any]:
    """Agreement of judges on N replies, as JSON.

    Args:
        replies: of one arm or of several; intervals resample their scenarios.
        labels: each judge's labels [N], by its name; None where it was not asked. An abstention is a missing label.
        seed: of the resampling.

    Returns:
        ``alpha``: Krippendorff's, over all judges; ``kappa``: Cohen's for each pair ``"a, b"``; each has ``estimate``,
        ``ci`` and ``method``, or is None where every label is the same and there is nothing to agree on. ``same``: of
        the ``compared`` replies the share with equal labels, by pair. ``accuracy`` and ``abstained``: shares of the
        ``asked`` replies, by judge. ``judges``: names; ``n`` and ``scenarios``: of all replies.

    Raises:
        DataError: fewer than two judges, or labels that are not one per reply.
    """
    if len(labels) < 2 or any(len(found) != len(replies) for found in labels.values()):
        lengths = {name: len(found) for name, found in labels.items()}
        raise DataError(f"agreement on {len(replies)} replies needs two judges' labels of each, got {lengths}")
    clusters = [r.skeleton_id for r in replies]
    given = {name: [None if label == ABSTAIN else label for label in found] for name, found in labels.items()}
    pairs = {f"{a}, {b}": (given[a], given[b]) for a, b in combinations(given, 2)}
    both = {
        pair: [x == y for x, y in zip(a, b, strict=True) if x is not None and y is not None]
        for pair, (a, b) in pairs.items()
    }
    asked = {
        name: [(r, label) for r, label in zip(replies, found, strict=True) if label is not None]
        for name, found in labels.items()
    }
    return {
        "judges": list(labels),
        "alpha": _record(krippendorff_alpha(list(given.values()), clusters, seed=seed)),
        "kappa": {pair: _record(cohen_kappa(a, b, clusters, seed=seed)) for pair, (a, b) in pairs.items()},
        "same": {pair: _share(found) for pair, found in both.items()},
        "compared": {pair: len(found) for pair, found in both.items()},
        "accuracy": {name: _share([label == r.emotion for r, label in found]) for name, found in asked.items()},
        "abstained": {name: _share([label == ABSTAIN for _, label in found]) for name, found in asked.items()},
        "asked": {name: len(found) for name, found in asked.items()},
        "n": len(replies),
        "scenarios": len(set(clusters)),
    }


def agreement_by_arm(replies: Sequence[JudgedReply], labels: Labels, *, seed: int) -> dict[str, Any]:
    """:func:`agreement` over all replies and, in ``by_arm``, over each arm's."""
    whole = agreement(replies, labels, seed=seed)
    by_arm = {}
    for arm in dict.fromkeys(r.arm for r in replies):
        rows = [row for row, reply in enumerate(replies) if reply.arm == arm]
        mine = {name: [found[row] for row in rows] for name, found in labels.items()}
        by_arm[arm] = agreement([replies[row] for row in rows], mine, seed=seed)
    return {**whole, "by_arm": by_arm}


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _record(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {"estimate": interval.estimate, "ci": [interval.low, interval.high], "method": interval.method}
