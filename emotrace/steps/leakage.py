"""What steering does beside what was asked: other emotions, and inputs that move the wrong way."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from emotrace.data.concepts import NEUTRAL
from emotrace.errors import DataError
from emotrace.formulas.statistics import proportion_interval
from emotrace.judges.base import ABSTAIN, INCOHERENT
from emotrace.steps.evaluate import JudgedReply, clusters_of


def off_target(replies: Sequence[JudgedReply], *, seed: int) -> dict[str, Any]:
    """Share of replies judged as an emotion that was not asked for, as JSON.

    Neutral and incoherent replies and abstentions are not off target, they are failures of another kind.
    ``most_frequent`` holds, for each emotion asked for, the emotion that its replies were most often taken for instead
    and the share of them (ties by name); None where there is none.
    """
    leaked = [r.label not in (r.emotion, NEUTRAL, INCOHERENT, ABSTAIN) for r in replies]
    interval = proportion_interval(leaked, clusters_of(replies), seed=seed)
    asked = Counter(r.emotion for r in replies)
    counts = Counter((r.emotion, r.label) for r, off in zip(replies, leaked, strict=True) if off)
    most: dict[str, Any] = {}
    for emotion, total in asked.items():
        found = sorted((-count, label) for (wanted, label), count in counts.items() if wanted == emotion)
        most[emotion] = {"label": found[0][1], "share": -found[0][0] / total} if found else None
    return {"share": interval.estimate, "share_ci": [interval.low, interval.high], "most_frequent": most}


def anti_steerable(
    replies: Sequence[JudgedReply], unsteered: Sequence[JudgedReply], *, seed: int
) -> dict[str, Any] | None:
    """Share of inputs that steering moves away from the emotion asked for, as JSON; None where a judge gives no scores.

    An input moves the wrong way when the judge's score of the emotion is lower for the steered reply than for the
    unsteered one to the same task. Inputs whose two scores are equal (mostly the same reply) count in the whole, and
    their share stands apart as ``ties``. ``unsteered`` holds one reply per task. Raises ``DataError`` when it lacks a
    task. Source: Tan et al. 2024, "Analyzing the generalization and reliability of steering vectors".
    """
    before = {r.task: r.score for r in unsteered}
    missing = [r.task for r in replies if r.task not in before]
    if missing:
        raise DataError(f"no unsteered reply to {missing[0]} (and {len(missing) - 1} more): pass the whole arm")
    pairs = [(r, r.score, before[r.task]) for r in replies]
    moves = [(r, after - start) for r, after, start in pairs if after is not None and start is not None]
    if not moves:
        return None
    interval = proportion_interval([move < 0 for _, move in moves], clusters_of([r for r, _ in moves]), seed=seed)
    return {
        "share": interval.estimate,
        "share_ci": [interval.low, interval.high],
        "ties": sum(move == 0 for _, move in moves) / len(moves),
        "n": len(moves),
    }
