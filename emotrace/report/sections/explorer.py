"""The explorer: emotion, budget and strength by choice; components, curves and replies of each choice side by side."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from emotrace.judges.base import ABSTAIN
from emotrace.report import figures
from emotrace.report.blocks import Block, Choice, Drawer, Drawing, Exchange, Explorer, Text
from emotrace.report.claims import FLUENCY_BAR
from emotrace.report.loading import RunFiles
from emotrace.report.word_diff import word_diff
from emotrace.report.wording import counted, interval, listed, number, percent, signed

COMPONENTS_LISTED = 20
SCENARIOS_SHOWN = 8

Place = tuple[str, int | None, float]
Answers = Mapping[Place, Mapping[str, Mapping[str, Any]]]


def explorer(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """The controls and what they choose from.

    ``Explorer.data`` holds, by place of emotion ``e``, budget ``b`` and strength ``s``: ``states[e][b][s]`` the
    sentence that sums a choice up; ``curves[e][b]`` with ``alt`` and ``caption`` of the emotion's drawing;
    ``circuits[e][b]`` with ``members`` (layer, head), ``by_layer`` (neurons counted), ``heads`` and ``neurons`` (the
    best ones: layer, index, score); ``shown[e][b][s]`` places in ``pairs``, one per scenario, None where no reply was
    kept. A pair holds ``before`` and ``after``: ``text`` as stretches shared and differing in turn
    (:func:`emotrace.report.word_diff.word_diff`), ``verdict`` and its ``tone``.
    """
    summary = run.stage("explore")
    emotions, strengths = summary["emotions"], summary["strengths"]
    budgets = [_size(budget) for budget in summary["budgets"]]
    answers, exchanges = _answers(run.records("explore"))
    groups, count = sorted(exchanges), min(len(exchanges), SCENARIOS_SHOWN)
    chosen = [groups[place * len(groups) // count] for place in range(count)]
    pairs, shown = _pairs(answers, chosen, summary)
    texts = [[_curve(summary, emotion, b) for b in range(len(budgets))] for emotion in emotions]
    start = (0, summary["chosen"]["budget"], summary["chosen"]["strength"])
    drawings = [
        _drawing(draw, summary, index, emotion, texts[index][start[1]], start) for index, emotion in enumerate(emotions)
    ]
    data = {
        "start": start,
        "states": [
            [[_state(summary, answers, emotion, b, s) for s in range(len(strengths))] for b in range(len(budgets))]
            for emotion in emotions
        ],
        "curves": texts,
        "circuits": [[_circuit(part, summary["layers"]) for part in summary["components"][e]] for e in emotions],
        "pairs": pairs,
        "shown": shown,
    }
    choices = (
        Choice("emotion", "Emotion", tuple(emotions), start[0]),
        Choice("budget", "Budget", tuple(budgets), start[1]),
        Choice("strength", "Strength", tuple(f"{strength:g}" for strength in strengths), start[2]),
    )
    asked = counted(len(groups), "scenario")
    kept = asked if count == len(groups) else f"{count} of {asked}, evenly spaced"
    return (
        Text(
            "Circuits of several sizes at several strengths, to look at: what the comparison claims rests on other "
            "scenarios, and more of them. At first: the size nearest to that of the comparison's circuit, at the "
            f"strength that the comparison's rule picks from these. Replies are shown to {kept}."
        ),
        Explorer(
            choices,
            tuple(drawings),
            summary["layers"],
            summary["heads_per_layer"],
            COMPONENTS_LISTED,
            tuple(exchanges[group] for group in chosen),
            data,
        ),
    )


def _size(budget: Mapping[str, Any]) -> str:
    return f"{counted(budget['heads'], 'head')} and {counted(budget['neurons'], 'neuron')}"


def _answers(records: Sequence[Mapping[str, Any]]) -> tuple[Answers, dict[str, Exchange]]:
    """Records by emotion, budget and strength, then by scenario; scenarios by the id of their group."""
    answers: dict[Place, dict[str, Mapping[str, Any]]] = {}
    exchanges: dict[str, Exchange] = {}
    for record in records:
        place = (record["emotion"], record["budget"], record["strength"])
        answers.setdefault(place, {})[record["group_id"]] = record
        exchanges.setdefault(record["group_id"], Exchange(record["scenario"], record["event"]))
    return answers, exchanges


def _place(emotion: str, budget: int, strength: float) -> Place:
    """Where a reply is kept: without an edit there is no budget."""
    return emotion, budget if strength else None, strength


def _state(summary: Mapping[str, Any], answers: Answers, emotion: str, budget: int, strength: int) -> str:
    amount = summary["strengths"][strength]
    asked = len(answers.get(_place(emotion, budget, amount), ()))
    share = percent(summary["accuracy"][emotion][budget][strength])
    around = interval(summary["accuracy_ci"][emotion][budget][strength])
    gap = summary["fluency_gap_nats"][emotion][budget][strength]
    return (
        f"{emotion}, {_size(summary['budgets'][budget])}, strength {amount:g}: {share} {around} of "
        f"{counted(asked, 'reply') if asked else 'replies'} judged {emotion}, "
        + ("no fluency gap known" if gap is None else f"fluency gap {signed(gap)} nats per token")
    )


def _curve(summary: Mapping[str, Any], emotion: str, budget: int) -> dict[str, str]:
    """What the curves of one budget show, for those who cannot see them, and the finding."""
    size, strengths = _size(summary["budgets"][budget]), [f"{strength:g}" for strength in summary["strengths"]]
    shares, gaps = summary["accuracy"][emotion][budget], summary["fluency_gap_nats"][emotion][budget]
    best = shares.index(max(shares))
    gap = "" if gaps[best] is None else f", at a fluency gap of {signed(gaps[best])} nats per token"
    by_share = listed([f"{percent(share)} at {at}" for at, share in zip(strengths, shares, strict=True)])
    by_gap = listed([f"{signed(gap)} at {at}" for at, gap in zip(strengths, gaps, strict=True) if gap is not None])
    return {
        "alt": f"Curves against strength for {emotion}, {size}: {by_share} are judged {emotion}; fluency gap "
        f"{by_gap or 'unknown'}.",
        "caption": f"With {size}, {percent(shares[best])} of replies are judged {emotion} at strength "
        f"{strengths[best]}, the least strength that reaches as many{gap}. Other budgets are drawn faintly.",
    }


def _drawing(
    draw: Drawer, summary: Mapping[str, Any], index: int, emotion: str, text: Mapping[str, str], start: Sequence[int]
) -> Drawing:
    figure = figures.strength_curves(
        summary["strengths"],
        summary["accuracy"][emotion],
        summary["accuracy_ci"][emotion],
        summary["fluency_gap_nats"][emotion],
        [_size(budget) for budget in summary["budgets"]],
        emotion,
        FLUENCY_BAR,
    )
    name = f"explore_{index}_{re.sub(r'[^A-Za-z0-9]+', '_', emotion)}"
    drawing = draw(figure, name, alt=text["alt"], caption=text["caption"])
    return replace(drawing, svg=marked_groups(drawing.svg, name, start[1], start[2]))


def marked_groups(svg: Markup, name: str, budget: int, strength: int) -> Markup:
    """An inline SVG whose groups say in attributes which budget and strength they draw, those given being current."""

    def mark(found: re.Match[str]) -> str:
        its_budget, its_strength = found["budget"], found["strength"]
        classes = ["current"] * (int(its_budget) == budget)
        attributes = f' data-budget="{its_budget}"'
        if its_strength is not None:
            attributes += f' data-strength="{its_strength}"'
            classes += ["here"] * (bool(classes) and int(its_strength) == strength)
        return f'{found[0]}{attributes} class="{" ".join(classes)}"'

    return Markup(re.sub(rf'\bid="{re.escape(name)}-b(?P<budget>\d+)(?:s(?P<strength>\d+))?-\w+"', mark, svg))


def _circuit(components: Mapping[str, Any], layers: int) -> dict[str, Any]:
    ranked = {kind: sorted(components[kind], key=lambda part: -part[2]) for kind in ("heads", "neurons")}
    by_layer = [sum(layer == at for layer, *_ in ranked["neurons"]) for at in range(layers)]
    listed_parts = {
        kind: [[str(layer), str(index), number(float(score))] for layer, index, score in parts[:COMPONENTS_LISTED]]
        for kind, parts in ranked.items()
    }
    return {"members": [[layer, head] for layer, head, _ in ranked["heads"]], "by_layer": by_layer, **listed_parts}


def _pairs(
    answers: Answers, groups: Sequence[str], summary: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[list[list[list[int | None]]]]]:
    """Every different pair of replies once, and by emotion, budget, strength and scenario which of them is shown."""
    pairs: list[dict[str, Any]] = []
    known: dict[tuple[Any, ...], int] = {}

    def pair(emotion: str, budget: int, strength: float, group: str) -> int | None:
        before = answers.get((emotion, None, 0.0), {}).get(group)
        after = answers.get(_place(emotion, budget, strength), {}).get(group)
        if before is None or after is None:
            return None
        key = (emotion, *((record["reply"], record["label"], record["score"]) for record in (before, after)))
        if key not in known:
            known[key] = len(pairs)
            plain, edited = word_diff(before["reply"], after["reply"])
            pairs.append(
                {"before": {"text": plain, **_judged(before)}, "after": {"text": edited, **_judged(after)}},
            )
        return known[key]

    shown = [
        [
            [[pair(emotion, budget, strength, group) for group in groups] for strength in summary["strengths"]]
            for budget in range(len(summary["budgets"]))
        ]
        for emotion in summary["emotions"]
    ]
    return pairs, shown


def _judged(record: Mapping[str, Any]) -> dict[str, str]:
    label, emotion = record["label"], record["emotion"]
    right = label == emotion
    said = "✗ the judge abstained" if label == ABSTAIN else f"✗ judged {label}, not {emotion}"
    score = "" if record["score"] is None else f" (score of {emotion} {record['score']:.2f})"
    return {"verdict": (f"✓ judged {label}" if right else said) + score, "tone": "good" if right else "bad"}
