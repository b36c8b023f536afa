"""What steering achieved: arms side by side, and what replies were taken for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emotrace.report.figures.style import (
    BLUE,
    DIVERGING,
    GREY,
    INK,
    RULE,
    SEQUENTIAL,
    colours,
    markers,
    panels,
    styled,
    words,
)


@styled
def comparison(arms: Mapping[str, Mapping[str, Any]], fluency_bar: float | None = 0.1) -> Figure:
    """Accuracy of every arm with its 95 % interval, emotion by emotion below it, and its fluency gap beside it.

    Args:
        arms: name -> ``{"accuracy", "accuracy_ci": [lo, hi], "by_emotion": {e: {"accuracy"}}, "fluency_gap_nats"}``;
            accuracies are shares in [0, 1], gaps nats per token against prompted replies. Drawn top to bottom.
        fluency_bar: half-width of the band around 0 that counts as fluent; None draws no band.
    """
    names = list(arms)
    emotions = list(next(iter(arms.values()))["by_emotion"]) if arms else []
    figure, (left, right) = panels(9.2, 1.4 + 0.42 * len(names), 1, 2, sharey=True, width_ratios=(1.9, 1))
    rows = np.arange(len(names))
    shares = np.array([arms[name]["accuracy"] for name in names])
    intervals = np.array([arms[name]["accuracy_ci"] for name in names]).reshape(-1, 2)
    paint, shape = colours(emotions), markers(emotions)
    for emotion in emotions:
        values = [100 * arms[name]["by_emotion"][emotion]["accuracy"] for name in names]
        left.plot(
            values,
            rows + 0.24,
            linestyle="none",
            marker=shape[emotion],
            markersize=4,
            color=paint[emotion],
            alpha=0.9,
            markeredgewidth=0,
            label=emotion,
            clip_on=False,
        )
    left.errorbar(
        100 * shares,
        rows - 0.08,
        xerr=100 * np.abs(intervals - shares[:, None]).T,
        fmt="o",
        color=INK,
        markersize=4.5,
        elinewidth=1.4,
        capsize=4,
        capthick=1.4,
        label="all, 95 % interval",
        clip_on=False,
    )
    left.set_yticks(rows, [words(name) for name in names])
    left.set_ylim(len(names) - 0.45, -0.6)
    left.set_xlim(0, 100)
    left.set_xlabel("replies judged as the requested emotion (%)")
    left.set_title("Does the reply express what was asked?")
    left.grid(axis="x")
    gaps = [arms[name]["fluency_gap_nats"] for name in names]
    if fluency_bar is not None:
        right.axvspan(-fluency_bar, fluency_bar, color=BLUE, alpha=0.12, linewidth=0, label=f"within {fluency_bar:g}")
    right.axvline(0, color=GREY, linewidth=1)
    right.plot(gaps, rows - 0.08, "o", color=INK, markersize=5.5)
    right.set_xlabel("gap to prompted replies (nats per token)")
    right.set_title("At what cost to fluency?")
    right.grid(axis="x")
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(emotions) + 1)
    return figure


@styled
def confusion_matrix(counts: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Share of each row's replies that the judge put in each column.

    Args:
        counts: ``[len(rows)][len(columns)]`` whole numbers.
        rows: emotions asked for.
        columns: the judge's labels.
    """
    table = np.asarray(counts, dtype=float).reshape(len(rows), len(columns))
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    figure, (axes,) = panels(1.9 + 0.66 * len(columns), 1.1 + 0.46 * len(rows))
    _matrix(axes, shares, rows, columns, lambda share: f"{100 * share:.0f}" if share else "")
    axes.set_xlabel("judged as (% of the row)")
    axes.set_ylabel("asked for")
    return figure


@styled
def similarity(matrix: Sequence[Sequence[float]], labels: Sequence[str], title: str, *, signed: bool) -> Figure:
    """A square matrix of overlaps (``signed=False``, [0, 1]) or cosines (``signed=True``, [-1, 1])."""
    table = np.asarray(matrix, dtype=float).reshape(len(labels), len(labels))
    figure, (axes,) = panels(1.7 + 0.62 * len(labels), 1.3 + 0.46 * len(labels))
    _matrix(axes, table, labels, labels, lambda value: f"{value:.2f}".replace("-", "−"), signed=signed)
    axes.set_title(title)
    return figure


def _matrix(
    axes: Any, table: np.ndarray, rows: Sequence[str], columns: Sequence[str], text: Any, signed: bool = False
) -> None:
    axes.pcolormesh(
        table,
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=-1.0 if signed else 0.0,
        vmax=1.0,
        edgecolors=RULE,
        linewidth=0.6,
    )
    for i, j in np.ndindex(*table.shape):
        # the cell is nearly opaque there: white reads on it in both themes, ink only in one
        colour = "#ffffff" if abs(table[i, j]) > 0.8 else INK
        axes.text(j + 0.5, i + 0.5, text(table[i, j]), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
