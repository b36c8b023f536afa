"""Sections about the evidence for the circuits: faithfulness, necessity, what they lack."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from emotrace.report import figures
from emotrace.report.blocks import Block, Drawer, Fold, Text
from emotrace.report.loading import RunFiles
from emotrace.report.sections.quality_tables import (
    PLACES,
    areas,
    best_heads,
    by_emotion,
    completeness,
    judged,
    main_table,
    minimality,
    two_digits,
    wordings,
)
from emotrace.report.wording import percent


def quality(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """Faithfulness, sufficiency, necessity, completeness, minimality, other wordings, specificity."""
    summary = run.stage("quality")
    tested = summary["tested"]
    blocks: list[Block] = [
        Text(
            f"Measure: how far the last token's final state points along the emotion's reference direction, on "
            f"{summary['prompts']:,} prompts of test scenarios. Faithfulness f is 1 for the whole model and 0 with "
            "every head and neuron ablated."
        ),
        main_table(summary),
    ]
    for tokens, part in summary["tokens"].items():
        curves = {name: _drawn(curve, summary["share"]) for name, curve in part["faithfulness"].items()}
        finding = _faithful(part["faithfulness"], tokens)
        blocks.append(
            draw(
                figures.faithfulness_curves(curves),
                f"faithfulness_{tokens}",
                alt=f"Faithfulness against the share of components left, everything else ablated {PLACES[tokens]}, one "
                f"panel per ablation. {finding}",
                caption=finding,
            )
        )
    blocks += [
        Fold("Areas under faithfulness (CPR) and from it to 1 (CMD)", tuple(areas(summary))),
        Fold("Emotion by emotion", tuple(by_emotion(summary))),
        Fold("Completeness: the same components taken from circuit and model", tuple(completeness(summary))),
        Fold("Minimality: which components the circuit needs", tuple(minimality(summary["minimality"]))),
        Fold(f"Single heads removed from the whole model ({tested})", (best_heads(summary["best_heads"]),)),
        Fold("In other words", tuple(wordings(summary))),
    ]
    if summary.get("judged"):
        blocks.append(judged(summary["judged"]["replies"]))
    return (*blocks, *_specificity(summary["specificity"], run.emotions, draw))


def _drawn(curve: Mapping[str, Any], share: float) -> dict[str, Any]:
    """A curve as the figure takes it: a share of nothing has no place on a logarithmic axis."""
    if "undefined" in curve:
        return {"undefined": curve["undefined"]}
    kept = {key: curve[key][1:] for key in ("shares", "faithfulness", "band", "random", "random_band")}
    return {**kept, "circuit": {"share": share, **curve["circuit"]}}


def _faithful(curves: Mapping[str, Any], tokens: str) -> str:
    parts = []
    for name, curve in curves.items():
        if "undefined" in curve:
            parts.append(f"{name}: undefined, {curve['undefined']}")
            continue
        pairs = zip(curve["shares"], curve["faithfulness"], strict=True)
        half = next((share for share, value in pairs if value >= 0.5 and share < 1), None)
        reached = f"half is reached with the best {percent(half)}" if half else "half is not reached short of all"
        parts.append(f"{name}: the circuit {two_digits(curve['circuit']['faithfulness'])}, {reached}")
    return f"Everything else ablated {PLACES[tokens]}, faithfulness is, by {'; by '.join(parts)}."


def _specificity(found: Mapping[str, Any], emotions: Sequence[str], draw: Drawer) -> tuple[Block, ...]:
    driven = found["driven"]
    removed = [[float("nan") if value is None else value for value in row] for row in found["removed"]]
    largest = sum(row[i] == max(row) for i, row in enumerate(driven))
    known = [(i == j, value) for i, row in enumerate(removed) for j, value in enumerate(row) if value == value]
    own, other = (fmean([v for same, v in known if same == mine] or [float("nan")]) for mine in (True, False))
    verdict = "so they are shared" if other > own / 2 else "so they are largely each emotion's own"
    return (
        draw(
            figures.specificity_matrix(driven, emotions, "change of the reading"),
            "specificity_driven",
            alt="Matrix of what driving each emotion's circuit on neutral prompts does to every emotion's reading.",
            caption=f"Driven on neutral prompts, {largest} of {len(driven)} circuits raise their own emotion's reading "
            "most.",
        ),
        draw(
            figures.specificity_matrix(removed, emotions, "share of the reading lost", "ablated"),
            "specificity_removed",
            alt="Matrix of the share of every emotion's reading that is lost when each emotion's circuit is ablated.",
            caption=f"Ablating a circuit takes {percent(own, 0)} of its own emotion's reading and {percent(other, 0)} "
            f"of another's: {verdict}.",
        ),
    )
