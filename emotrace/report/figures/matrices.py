"""Matrices with their numbers in the cells: what replies were taken for, overlaps, cosines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from emotrace.report.figures.style import DIVERGING, INK, RULE, SEQUENTIAL, panels, styled, words


@styled
def confusion_matrix(counts: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Share of each row's replies that the judge put in each column.

    Args:
        counts: ``[len(rows)][len(columns)]`` whole numbers.
        rows: emotions asked for.
        columns: the judge's labels.
    """
    figure, (axes,) = panels(1.9 + 0.66 * len(columns), 1.1 + 0.46 * len(rows))
    draw_matrix(axes, _row_shares(counts), rows, columns, _whole_percent)
    axes.set_xlabel("judged as (% of the row)")
    axes.set_ylabel("asked for")
    return figure


@styled
def confusion_matrices(matrices: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Confusion matrices of several arms side by side, on one scale.

    Args:
        matrices: arm -> ``{"rows", "columns", "counts"}`` as for :func:`confusion_matrix`.
    """
    across = min(len(matrices), 3)
    down = -(-len(matrices) // across)
    rows, columns = (max(len(m[key]) for m in matrices.values()) for key in ("rows", "columns"))
    figure, axes = panels(
        1.1 + across * (0.4 + 0.29 * columns), 0.9 + down * (0.35 + 0.27 * rows), down, across, sharex=True, sharey=True
    )
    for index, (name, matrix) in enumerate(matrices.items()):
        panel = axes[index]
        draw_matrix(panel, _row_shares(matrix["counts"]), matrix["rows"], matrix["columns"], _whole_percent, size=7)
        panel.set_title(words(name))
        last = index + across >= len(matrices)
        panel.tick_params(labelbottom=last, labelsize=7.5)
        for label in panel.get_xticklabels():
            label.set(rotation=60)
        panel.set_xlabel("judged as (% of the row)" if last else "")
        panel.set_ylabel("" if index % across else "asked for")
    for panel in axes[len(matrices) :]:
        panel.set_visible(False)
    return figure


@styled
def similarity(matrix: Sequence[Sequence[float]], labels: Sequence[str], title: str, *, signed: bool) -> Figure:
    """A square matrix of overlaps (``signed=False``, [0, 1]) or cosines (``signed=True``, [-1, 1])."""
    table = np.asarray(matrix, dtype=float).reshape(len(labels), len(labels))
    figure, (axes,) = panels(1.7 + 0.62 * len(labels), 1.3 + 0.46 * len(labels))
    draw_matrix(axes, table, labels, labels, lambda value: f"{value:.2f}".replace("-", "−"), signed=signed)
    axes.set_title(title)
    return figure


def _row_shares(counts: Sequence[Sequence[int]]) -> np.ndarray:
    table = np.asarray(counts, dtype=float)
    totals = table.sum(axis=1, keepdims=True)
    return np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)


def _whole_percent(share: float) -> str:
    return f"{100 * share:.0f}" if share else ""


def draw_matrix(
    axes: Axes,
    table: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    text: Callable[[float], str],
    signed: bool = False,
    top: float = 1.0,
    size: float = 9,
) -> QuadMesh:
    """A matrix as cells with their numbers in them, on a scale from 0 (or ``-top``) to ``top``; the first row above."""
    mesh = axes.pcolormesh(
        table,
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=-top if signed else 0.0,
        vmax=top,
        edgecolors=RULE,
        linewidth=0.6,
    )
    for i, j in np.ndindex(*table.shape):
        # the cell is nearly opaque there: white reads on it in both themes, ink only in one
        colour = "#ffffff" if abs(table[i, j]) > 0.8 * top else INK
        axes.text(j + 0.5, i + 0.5, text(float(table[i, j])), ha="center", va="center", color=colour, fontsize=size)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.yaxis.set_inverted(True)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return mesh
