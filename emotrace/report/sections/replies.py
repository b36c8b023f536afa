"""Replies side by side: the same scenarios answered by every arm."""

from collections.abc import Mapping, Sequence
from typing import Any

from emotrace.report.blocks import Block, Cell, Drawer, Exchange, Fold, Row, Table, Text
from emotrace.report.figures.style import words
from emotrace.report.loading import RunFiles

SHOWN_ARMS = ("unsteered", "prompting", "residual", "circuit", "random_matched", "wrong_emotion")
SCENARIOS_SHOWN = 3


def replies(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """The same scenarios answered by every arm, emotion by emotion; chosen by place in the data, not by outcome."""
    records = [record for record in run.records("control") if record["arm"] in SHOWN_ARMS]
    if not records:
        return (Text("This run kept no replies."),)
    by_place: dict[tuple[str, str, str], dict[str, Any]] = {}
    coverage: dict[str, set[tuple[str, str]]] = {}
    for record in sorted(records, key=lambda record: record["draw"]):
        by_place.setdefault((record["group_id"], record["emotion"], record["arm"]), record)
        coverage.setdefault(record["group_id"], set()).add((record["emotion"], record["arm"]))
    most = max(map(len, coverage.values()))
    full = sorted(group for group, covered in coverage.items() if len(covered) == most)
    chosen = full[:: max(len(full) // SCENARIOS_SHOWN, 1)][:SCENARIOS_SHOWN]
    emotions = list(dict.fromkeys(record["emotion"] for record in records))
    blocks: list[Block] = [
        Text(
            f"{len(chosen)} of {len(coverage)} held-out scenarios, evenly spaced among those that most arms answered, "
            "so that the choice does not depend on the outcome. The judge's verdict stands below every reply."
        )
    ]
    for place, group in enumerate(chosen):
        first = next(record for record in records if record["group_id"] == group)
        shown = (Exchange(first["scenario"], first["event"]), *_reply_table(by_place, group, emotions))
        blocks += shown if place == 0 else (Fold(f"{first['scenario']} {first['event']}", shown),)
    return tuple(blocks)


def _reply_table(
    by_place: Mapping[tuple[str, str, str], dict[str, Any]], group: str, emotions: Sequence[str]
) -> tuple[Block, ...]:
    """One row per emotion, one column per arm; an unsteered reply that is the same for all is told once."""
    unsteered = [by_place.get((group, emotion, "unsteered")) for emotion in emotions]
    told = {(record["reply"], record["label"]) for record in unsteered if record is not None}
    once = len(told) == 1
    before: tuple[Block, ...] = ()
    if once:
        reply, label = next(iter(told))
        before = (Text(f"Unsteered, whatever is asked for: “{reply}” (judged {label})"),)
    arms = [arm for arm in SHOWN_ARMS if not (once and arm == "unsteered")]
    rows: tuple[Row, ...] = tuple(
        (emotion, *(_reply(by_place.get((group, emotion, arm)), emotion) for arm in arms)) for emotion in emotions
    )
    caption = "Replies by emotion asked for (rows) and arm (columns)."
    return (*before, Table(caption, ("asked for", *map(words, arms)), rows, stacks=True))


def _reply(record: Mapping[str, Any] | None, asked: str) -> Cell:
    if record is None:
        return Cell("–", "reply", note="not answered by this arm in this run")
    judged = verdict(record["label"], asked)
    return Cell(record["reply"], "reply", judged.tone, judged.text)


def verdict(label: str, asked: str) -> Cell:
    """The judge's label, marked in words and tone as right or wrong."""
    return Cell(f"✓ {label}", tone="good") if label == asked else Cell(f"✗ {label}", tone="bad")
