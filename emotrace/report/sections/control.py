"""Sections about steering: the comparison, success against fluency, tuning."""

from collections.abc import Mapping
from typing import Any

from emotrace.report import figures
from emotrace.report.blocks import Block, Cell, Drawer, Fold, Row, Table, Text
from emotrace.report.claims import FLUENCY_BAR
from emotrace.report.figures.style import words
from emotrace.report.loading import RunFiles
from emotrace.report.wording import (
    absent,
    counted,
    facts,
    interval,
    listed,
    number,
    p_value,
    percent,
    share_with_interval,
    signed,
)


def comparison(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """Table of arms with intervals, the figure, paired differences, by emotion, and the finer measures."""
    control = run.stage("control")
    arms: Mapping[str, Any] = control["arms"]
    best = max(arms, key=lambda name: arms[name]["accuracy"])
    circuit = frozenset(i for i, name in enumerate(arms) if name == "circuit")
    head = ("arm", "judged as asked", "95 % interval", "fluency gap", "structure accepted", "replies", "draws")
    rows: tuple[Row, ...] = tuple(
        (
            words(name),
            _number(percent(arm["accuracy"])),
            _number(interval(arm["accuracy_ci"])),
            _number(signed(arm["fluency_gap_nats"]), _gap_tone(arm["fluency_gap_nats"])),
            _number(percent(arm["structure_accepted"])),
            _number(number(arm["n"])),
            _number(number(arm.get("draws"))),
        )
        for name, arm in arms.items()
    )
    return (
        Table(
            "Share of held-out replies that a judge blind to the request calls the requested emotion (abstentions and "
            "incoherent replies count as wrong); fluency gap in nats per token against prompted replies.",
            head,
            rows,
            circuit,
        ),
        draw(
            figures.comparison(arms, FLUENCY_BAR),
            "comparison",
            alt="Accuracy with 95 % interval and fluency gap of every arm: "
            + "; ".join(f"{words(name)} {share_with_interval(arm)}" for name, arm in arms.items()),
            caption=f"{words(best).capitalize()} reaches the highest share, {share_with_interval(arms[best])}"
            + _circuit_clause(arms, best)
            + " Small marks: the single emotions. Band on the right: gaps no larger than "
            f"{FLUENCY_BAR:g} nats per token.",
        ),
        *_paired(control["paired"]),
        Fold("By emotion, with 95 % intervals", (_by_emotion(arms),)),
        Fold("Finer measures of the replies", (_finer(arms),)),
        Fold("What each arm does", (_descriptions(arms),)),
    )


def frontier(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """Success against fluency over every setting tried, and the area under each arm's best trade-offs."""
    control = run.stage("control")
    arms: Mapping[str, Any] | None = control.get("frontier")
    if arms is None:
        return (absent(run, "control", "success against fluency over all settings"),)
    areas = {name: arm["area"] for name, arm in arms.items() if arm["area"] is not None}
    tuned = {name for name, arm in arms.items() if any(point["strength"] is not None for point in arm["points"])}
    ordered = sorted(tuned & set(areas), key=lambda name: -areas[name])
    largest = "No tuned arm has an area under its frontier."
    if ordered:
        largest = (
            f"Of the tuned arms, {words(ordered[0])} has the largest area under its frontier, "
            f"{number(areas[ordered[0]])}"
        )
        rest = [f"{words(name)} {number(areas[name])}" for name in ordered[1:]]
        largest += f"; {listed(rest)}." if rest else "."
    single = listed([f"{words(name)} {number(areas[name])}" for name in areas if name not in tuned])
    compared = f" Without a strength: {single}." if single else ""
    points = [point for arm in arms.values() for point in arm["points"]]
    unmeasured = sum(point["gap"] is None for point in points)
    left_out = f" {counted(unmeasured, 'setting')} without a fluency gap (no reply had a word) left out." * bool(
        unmeasured
    )
    return (
        draw(
            figures.frontier(arms, FLUENCY_BAR),
            "frontier",
            alt=f"Accuracy against fluency gap of {counted(len(points), 'setting')}, by arm. {largest}",
            caption=f"{largest}{compared} The area is the best accuracy within an allowed gap, averaged over allowed "
            f"gaps from 0 to {number(control['settings']['frontier_limit_nats'])} nats per token, on validation "
            "scenarios. Small marks: every setting tried; lines: those that no other setting of the arm beats in both. "
            f"Shaded: gaps within {FLUENCY_BAR:g}.{left_out}",
        ),
    )


def tuning(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """Every setting that tuning tried on validation scenarios, the chosen ones set apart."""
    control = run.stage("control")
    tried = control["tuning"]
    if not tried:
        return (Text("Nothing was tuned in this run."),)
    keys = tuple(dict.fromkeys(key for row in tried for key in row if key != "chosen"))
    rows: tuple[Row, ...] = tuple(
        (
            *(_setting(key, row.get(key)) for key in keys),
            Cell("chosen" if row.get("chosen") else "", tone="good" if row.get("chosen") else "plain"),
        )
        for row in tried
    )
    table = Table(
        "Settings tried on validation scenarios.",
        (*map(words, keys), "chosen"),
        rows,
        frozenset(i for i, row in enumerate(tried) if row.get("chosen")),
    )
    count = sum(1 for row in tried if row.get("chosen"))
    return (
        Text(f"{len(tried)} settings were tried and {count} chosen, on scenarios that the comparison does not use."),
        Fold("All settings tried", (table,), is_open=len(tried) <= 12),
    )


def settings(run: RunFiles) -> tuple[Block, ...]:
    """The settings that the comparison ran with, for the methods section."""
    if not run.has("control") or not run.stage("control").get("settings"):
        return ()
    return (Fold("Settings of the comparison", (facts(run.stage("control")["settings"]),)),)


def _circuit_clause(arms: Mapping[str, Any], best: str) -> str:
    if best == "circuit" or "circuit" not in arms:
        return "."
    return f"; circuit modulation {share_with_interval(arms['circuit'])}."


def _paired(paired: Mapping[str, Any]) -> tuple[Block, ...]:
    rows: tuple[Row, ...] = tuple(
        (
            words(name).replace(" minus ", " − "),
            _number(f"{signed(100 * part['difference'], 1)} points"),
            _number(interval(part["ci"])),
            _number(p_value(part["p"])),
        )
        for name, part in paired.items()
    )
    if not rows:
        return ()
    return (Table("Paired differences on the same scenarios.", ("pair", "difference", "95 % interval", "test"), rows),)


def _by_emotion(arms: Mapping[str, Any]) -> Table:
    emotions = list(next(iter(arms.values()))["by_emotion"])
    rows: tuple[Row, ...] = tuple(
        (words(name), *(_share(arm["by_emotion"][emotion]) for emotion in emotions)) for name, arm in arms.items()
    )
    return Table("Share judged as asked.", ("arm", *emotions), rows)


_FINER = {
    "strength": "strength",
    "as_other": "judged as the other emotion",
    "abstained": "judge abstained",
    "incoherent": "incoherent",
    "repetition": "repetition",
    "distinct_2": "distinct pairs of words",
    "nonwords": "words that no prompted or neutral reply has",
    "length": "words per reply",
    "stopped": "ended by itself",
}
_SHARES = {"as_other", "abstained", "incoherent", "repetition", "distinct_2", "nonwords", "stopped"}


def _finer(arms: Mapping[str, Any]) -> Table:
    keys = [key for key in _FINER if any(arm.get(key) is not None for arm in arms.values())]
    rows: tuple[Row, ...] = tuple(
        (words(name), *(_measure(key, arm.get(key)) for key in keys)) for name, arm in arms.items()
    )
    return Table("Abstentions, repetition, word shapes and length.", ("arm", *(_FINER[key] for key in keys)), rows)


def _measure(key: str, value: Any) -> Cell:
    return _number(percent(value) if key in _SHARES and value is not None else number(value))


def _descriptions(arms: Mapping[str, Any]) -> Table:
    rows: tuple[Row, ...] = tuple((words(name), arm.get("description", "")) for name, arm in arms.items())
    return Table("The arms, in the order of the table above.", ("arm", "what it does"), rows)


def _number(text: str, tone: str = "plain") -> Cell:
    return Cell(text, "number", tone)


def _share(part: Mapping[str, Any]) -> Cell:
    return Cell(percent(part["accuracy"]), "number", note=interval(part["accuracy_ci"]))


def _gap_tone(gap: float) -> str:
    return "plain" if abs(gap) <= FLUENCY_BAR else "bad"


def _setting(key: str, value: Any) -> Cell | str:
    if key == "accuracy" and value is not None:
        return _number(percent(value))
    return _number(number(value)) if isinstance(value, (int, float)) else number(value)
