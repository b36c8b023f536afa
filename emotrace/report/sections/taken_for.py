"""The section about what replies were taken for: confusion, other emotions, inputs that move away, agreement."""

from collections.abc import Mapping
from typing import Any

from emotrace.report import figures
from emotrace.report.blocks import Block, Cell, Drawer, Fold, Row, Table, Text
from emotrace.report.figures.style import words
from emotrace.report.loading import RunFiles
from emotrace.report.wording import absent, interval, listed, number, percent


def confusion(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """The circuit's confusion matrix, every arm's beside each other, what leaks, and how far the judges agree."""
    control = run.stage("control")
    matrices: Mapping[str, Any] = control["confusion"]
    shown = "circuit" if "circuit" in matrices else next(iter(matrices))
    matrix = matrices[shown]
    missed = _misses(matrix)
    total = sum(map(sum, matrix["counts"]))
    finding = (
        f"{sum(n for *_, n in missed)} of {total:,} replies of {words(shown)} are judged as something else; most often "
        f"{missed[0][0]} taken for {missed[0][1]} ({missed[0][2]})."
        if missed
        else f"All {total:,} replies of {words(shown)} are judged as the emotion asked for."
    )
    return (
        draw(
            figures.confusion_matrix(matrix["counts"], matrix["rows"], matrix["columns"]),
            "confusion",
            alt=f"Confusion matrix of {words(shown)}: rows are the emotion asked for, columns the judge's label.",
            caption=finding,
        ),
        draw(
            figures.confusion_matrices(matrices),
            "confusions",
            alt=f"Confusion matrices of {listed([words(name) for name in matrices])}, in percent of each row.",
            caption=_leaks(matrices),
        ),
        _off_target(run, control["arms"]),
        *_agreement(run, control),
        Fold("Counts for every arm", tuple(_counts(name, part) for name, part in matrices.items())),
    )


def _leaks(matrices: Mapping[str, Any]) -> str:
    """Which arms' replies are taken for another emotion than asked."""
    shares = {name: _as_other(matrix) for name, matrix in matrices.items()}
    some = sorted((name for name in shares if shares[name]), key=lambda name: -shares[name])
    if not some:
        return "No arm's replies are judged as another emotion than was asked for."
    told = listed([f"{words(name)} {percent(shares[name])}" for name in some])
    rest = f"; none of the other {len(shares) - len(some)} arms" if len(some) < len(shares) else ""
    return f"Replies judged as another emotion than was asked for: {told}{rest}."


def _as_other(matrix: Mapping[str, Any]) -> float:
    """Share of all replies judged as one of the emotions, but not the one asked for."""
    total = sum(map(sum, matrix["counts"]))
    other = sum(count for _, column, count in _misses(matrix) if column in matrix["rows"])
    return other / total if total else 0.0


def _misses(matrix: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """(asked, judged, count) off the diagonal, most frequent first."""
    cells = [
        (row, column, count)
        for row, counts in zip(matrix["rows"], matrix["counts"], strict=True)
        for column, count in zip(matrix["columns"], counts, strict=True)
        if row != column and count
    ]
    return sorted(cells, key=lambda cell: -cell[2])


def _off_target(run: RunFiles, arms: Mapping[str, Any]) -> Block:
    if not any(arm.get("off_target") for arm in arms.values()):
        return absent(run, "control", "intervals of what leaks into other emotions")
    rows: tuple[Row, ...] = tuple(
        (
            words(name),
            *_share_cells(arm.get("off_target")),
            _most_frequent(arm.get("off_target")),
            *_share_cells(arm.get("anti_steerable")),
            Cell(percent(arm["anti_steerable"]["ties"]) if arm.get("anti_steerable") else number(None), "number"),
        )
        for name, arm in arms.items()
    )
    return Table(
        "Replies judged as an emotion that was not asked for, and inputs whose score of the emotion asked for is lower "
        "than without steering (a dash: nothing to compare, or a judge without scores).",
        ("arm", "another emotion", "95 % interval", "most often", "moved away", "95 % interval", "score unchanged"),
        rows,
    )


def _share_cells(part: Mapping[str, Any] | None) -> tuple[Cell, Cell]:
    if not part:
        return Cell(number(None), "number"), Cell(number(None), "number")
    return Cell(percent(part["share"]), "number"), Cell(interval(part["share_ci"]), "number")


def _most_frequent(part: Mapping[str, Any] | None) -> str:
    """The most frequent mistake over all emotions asked for."""
    taken = {e: found for e, found in (part or {}).get("most_frequent", {}).items() if found}
    if not taken:
        return number(None)
    asked = max(taken, key=lambda emotion: taken[emotion]["share"])
    return f"{asked} as {taken[asked]['label']} ({percent(taken[asked]['share'], 0)})"


def _agreement(run: RunFiles, control: Mapping[str, Any]) -> tuple[Block, ...]:
    if "agreement" not in control:
        return (absent(run, "control", "how far judges agree on the replies"),)
    found: Mapping[str, Any] | None = control["agreement"]
    if found is None:
        return (Text("Judges were not compared in this run: only one of them could judge these replies."),)
    rows: list[Row] = [
        (
            "all judges",
            "Krippendorff's alpha",
            *_estimate(found["alpha"]),
            _number(None),
            Cell(f"{found['n']:,}", "number"),
        )
    ]
    rows += [
        (
            pair,
            "Cohen's kappa",
            *_estimate(kappa),
            _number(found["same"][pair]),
            Cell(f"{found['compared'][pair]:,}", "number"),
        )
        for pair, kappa in found["kappa"].items()
    ]
    abstained = listed([f"{name} {percent(share)}" for name, share in found["abstained"].items()])
    whole = Table(
        f"Agreement of judges on {found['n']:,} replies of {found['scenarios']:,} scenarios; 1 is perfect, 0 chance. "
        f"Abstentions do not count ({abstained}); a dash: all labels are the same.",
        ("judges", "measure", "agreement", "95 % interval", "same label", "replies"),
        tuple(rows),
    )
    by_arm: tuple[Row, ...] = tuple(
        (words(name), *(_number(part["accuracy"][judge]) for judge in found["judges"]), *_estimate(part["alpha"]))
        for name, part in found["by_arm"].items()
    )
    each = Table(
        "Share judged as asked on these replies, judge by judge, and Krippendorff's alpha within each arm.",
        ("arm", *found["judges"], "alpha", "95 % interval"),
        by_arm,
    )
    return whole, Fold("Every judge's view of every arm", (each,))


def _number(share: float | None) -> Cell:
    return Cell(number(None) if share is None else percent(share), "number")


def _estimate(found: Mapping[str, Any] | None) -> tuple[Cell, Cell]:
    if found is None:
        return Cell(number(None), "number"), Cell(number(None), "number")
    low, high = found["ci"]
    return Cell(f"{found['estimate']:.3f}".replace("-", "−"), "number"), Cell(
        f"[{low:.3f}, {high:.3f}]".replace("-", "−"), "number"
    )


def _counts(name: str, matrix: Mapping[str, Any]) -> Table:
    rows: tuple[Row, ...] = tuple(
        (row, *(Cell(str(count) if count else "·", "number") for count in counts))
        for row, counts in zip(matrix["rows"], matrix["counts"], strict=True)
    )
    return Table(f"{words(name)}: asked for (rows), judged as (columns).", ("asked for", *matrix["columns"]), rows)
