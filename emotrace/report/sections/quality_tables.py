"""Tables about the evidence for the circuits."""

from collections.abc import Mapping, Sequence
from typing import Any

from emotrace.report.blocks import Cell, Row, Table
from emotrace.report.figures.style import words
from emotrace.report.wording import interval, number, p_value, percent

PLACES = {"all": "at every token", "last": "at the last prompt token"}
AREAS = {
    "cpr": "CPR, linear",
    "cmd_linear": "CMD, linear",
    "cpr_log": "CPR, logarithmic",
    "cmd_log": "CMD, logarithmic",
}


def main_table(summary: Mapping[str, Any]) -> Table:
    """What the circuit does alone and what the model does without it, beside random circuits."""
    rows: list[Row] = []
    for tokens, part in summary["tokens"].items():
        for name, key in (("the circuit alone", "sufficiency"), ("all but the circuit", "necessity")):
            found = part[key]
            if "undefined" in found:
                rows.append((f"{name}, {PLACES[tokens]}", found["undefined"], "", "", ""))
                continue
            low, high = found["random_range"]
            rows.append(
                (
                    f"{name}, {PLACES[tokens]}",
                    _number(f"{number(round(found['circuit'], 3))} {band(found['ci'])}"),
                    _number(f"{found['random_mean']:.3f}"),
                    _number(f"{two_digits(low)} to {two_digits(high)}"),
                    _number(p_value(found["p"])),
                )
            )
    return Table(
        f"Faithfulness of what is left ({summary['tested']} ablation), beside random circuits with as many components "
        "in every sublayer; p from a permutation test over draws.",
        ("left", "f [95 %]", "random, mean", "random, range", "test"),
        tuple(rows),
    )


def areas(summary: Mapping[str, Any]) -> list[Table]:
    """CPR and CMD of the best components and of random ones, for every ablation."""
    rows: list[Row] = []
    for tokens, part in summary["tokens"].items():
        for ablation, curve in part["faithfulness"].items():
            if "undefined" in curve:
                rows.append((f"{ablation}, {PLACES[tokens]}", curve["undefined"], *[""] * (2 * len(AREAS) - 1)))
                continue
            cells = [
                _number(f"{two_digits(curve[kind][name][0])} {band(curve[kind][name][1:])}")
                for name in AREAS
                for kind in ("areas", "random_areas")
            ]
            rows.append((f"{ablation}, {PLACES[tokens]}", *cells))
    head = ("ablation", *(f"{title}{who}" for title in AREAS.values() for who in ("", ", random")))
    return [Table("Areas over the share of components, best by score and random.", head, tuple(rows))]


def by_emotion(summary: Mapping[str, Any]) -> list[Table]:
    """Sufficiency and necessity of each emotion's circuit, which the means over emotions may hide."""
    tables = []
    for tokens, part in summary["tokens"].items():
        emotions = dict.fromkeys(e for key in ("sufficiency", "necessity") for e in part[key].get("by_emotion", {}))
        rows: list[Row] = []
        for emotion in emotions:
            row: list[Cell | str] = [emotion]
            for key in ("sufficiency", "necessity"):
                found = part[key]["by_emotion"].get(emotion)
                texts = ("undefined", "", "")
                if found is not None:
                    texts = (two_digits(found["circuit"]), two_digits(found["random_mean"]), p_value(found["p"]))
                row += [_number(text) for text in texts]
            rows.append(tuple(row))
        head = ("emotion", "f alone", "random", "test", "f without", "random", "test")
        tables.append(Table(f"Each emotion's circuit, {PLACES[tokens]} ({summary['tested']}).", head, tuple(rows)))
    return tables


def completeness(summary: Mapping[str, Any]) -> list[Table]:
    """Circuit and model without the same components, for each choice of tokens and ablation."""
    tables = []
    for tokens, part in summary["tokens"].items():
        for ablation, found in part["completeness"].items():
            if "undefined" in found:
                caption = f"{ablation} ablation, {PLACES[tokens]}: undefined, {found['undefined']}."
                tables.append(Table(caption, ("taken away",), ()))
                continue
            rows: tuple[Row, ...] = tuple(
                (name, _number(f"{circuit:.3f}"), _number(f"{model:.3f}"), _number(f"{abs(circuit - model):.3f}"))
                for name, circuit, model in zip(found["sets"], found["circuit"], found["model"], strict=True)
            )
            caption = (
                f"f without a set of the circuit's components, {ablation} ablation, {PLACES[tokens]}: a complete "
                f"circuit fails as the model does (gap {found['mean_gap']:.2f}, largest {found['largest_gap']:.2f})."
            )
            tables.append(Table(caption, ("taken away", "f of the circuit", "f of the model", "gap"), rows))
    return tables


def minimality(found: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """How many components each emotion's circuit needs, for each ablation."""
    tables = []
    for ablation, by_name in found.items():
        rows: list[Row] = []
        for emotion, part in by_name.items():
            if "undefined" in part:
                rows.append((emotion, "", "", part["undefined"]))
                continue
            counts = [_needed(part[site]) if site in part else "" for site in ("heads", "neurons")]
            largest = (f"{r['site'][:-1]} {r['layer']}.{r['index']} ({r['drop']:.2f})" for r in part["largest"][:4])
            rows.append((emotion, *map(_number, counts), ", ".join(largest)))
        tables.append(
            Table(
                f"Components whose removal from the circuit lowers f by 0.01 or more, in brackets by any amount (sign "
                f"flips of scenarios, Benjamini-Hochberg at 5 % over each emotion's components; {ablation} ablation).",
                ("emotion", "heads needed", "neurons needed", "largest falls of f"),
                tuple(rows),
            )
        )
    return tables


def _needed(counts: Mapping[str, int]) -> str:
    return f"{counts['needed']} ({counts['detected']}) of {counts['components']}"


def best_heads(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Heads that the whole model needs singly."""
    rows = tuple(
        (
            emotion,
            _number(str(sum(r["p"] <= 0.05 and r["drop"] > 0.01 for r in records))),
            ", ".join(
                f"{r['layer']}.{r['index']} ({r['drop']:.2f}, {p_value(r['p'])})"
                for r in sorted(records, key=lambda r: -r["drop"])[:4]
            ),
        )
        for emotion, records in found.items()
    )
    return Table(
        "Heads chosen by score on training scenarios and removed one at a time on test scenarios: fall of f, "
        "max-statistic p over the heads tried.",
        ("emotion", "heads that cost over 0.01", "largest"),
        rows,
    )


def wordings(summary: Mapping[str, Any]) -> list[Table]:
    """The circuit on paraphrased and implied instructions, for each choice of tokens."""
    tables = []
    for tokens, part in summary["tokens"].items():
        rows: list[Row] = []
        for kind, found in part["wordings"].items():
            if "undefined" in found:
                rows.append((kind, found["undefined"], "", "", ""))
                continue
            rows.append(
                (
                    kind,
                    *(
                        Cell(two_digits(found[k]["faithfulness"]), "number", note=band(found[k]["ci"]))
                        for k in ("alone", "alone_random", "removed", "removed_random")
                    ),
                )
            )
        tables.append(
            Table(
                f"f on instructions that the circuit was not found on, {PLACES[tokens]}; random circuits in turn.",
                ("instruction", "circuit alone", "random alone", "without circuit", "without random"),
                tuple(rows),
            )
        )
    return tables


def judged(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """What the judge hears with and without the circuit, by kind of instruction."""
    rows: tuple[Row, ...] = tuple(
        (
            words(name),
            *(
                Cell(percent(arms[name]["accuracy"]), "number", note=interval(arms[name]["ci"]))
                if name in arms
                else Cell("–", "number")
                for arms in found.values()
            ),
        )
        for name in next(iter(found.values()))
    )
    count = next(iter(next(iter(found.values())).values()))["n"]
    return Table(
        f"{count:,} replies to prompts that ask for the emotion, judged as asked, with components set to their mean "
        "over all conditions at the last prompt token.",
        ("what", *(f"{words(kind)} instruction" for kind in found)),
        rows,
    )


def band(pair: Sequence[float]) -> str:
    """An interval as ``[0.12, 0.34]``."""
    return f"[{two_digits(pair[0])}, {two_digits(pair[1])}]"


def two_digits(value: float) -> str:
    """Two digits behind the point, a true minus, and none before zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _number(text: str) -> Cell:
    return Cell(text.replace("-", "−"), "number")
