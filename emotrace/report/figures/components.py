"""Which components carry an emotion: how scores are spread, and where the circuit's members sit."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from emotrace.report.figures.style import (
    GREY,
    RULE,
    colours,
    emotion_legend,
    layer_ticks,
    markers,
    panels,
    styled,
)

_RANKS = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
_SMALL_CELL = 0.15
"""Inches; a grid of smaller cells would be all lines."""


@styled
def long_tail(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Component scores in falling order, one line per emotion, one panel per kind.

    Args:
        scores: kind (heads, neurons) -> emotion -> scores, falling; long lists may be thinned before. The x axis is
            each point's place in its list as a share of the list, on a logit scale: what matters sits at both ends.
    """
    figure, axes = panels(9.2, 3.4, 1, max(len(scores), 1))
    for panel, (kind, by_emotion) in zip(axes, scores.items(), strict=False):
        paint = colours(list(by_emotion))
        for emotion, values in by_emotion.items():
            places = (np.arange(len(values)) + 0.5) / max(len(values), 1)
            panel.plot(places, values, color=paint[emotion], linewidth=1.6, label=emotion)
        panel.axhline(0, color=GREY, linewidth=1)
        panel.set_title(kind.capitalize())
        panel.set_xscale("logit")
        panel.xaxis.set_major_locator(FixedLocator(_RANKS))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{100 * place:g}"))
        longest = max(map(len, by_emotion.values()), default=0)
        if longest > 1:
            panel.set_xlim(0.4 / longest, 1 - 0.4 / longest)
        panel.set_xlabel(f"rank (% of {kind}, both ends stretched)")
        panel.grid(axis="y")
    axes[0].set_ylabel("score: fall of h · v when zeroed")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


@styled
def circuit_map(
    head_ids: Mapping[str, Sequence[Sequence[int]]],
    neurons_by_layer: Mapping[str, Sequence[int]],
    layers: int,
    heads: int,
) -> Figure:
    """Every head of the model as a cell, marked by the emotions whose circuit holds it; neurons counted beside it.

    Args:
        head_ids: emotion -> ``[[layer, head], ...]``.
        neurons_by_layer: emotion -> ``[L]`` counts.
        layers: L.
        heads: heads per layer.
    """
    emotions = list(head_ids)
    paint, shape = colours(emotions), markers(emotions)
    cell = min(0.5, 5.6 / max(heads, 1), 9.0 / max(layers, 1))
    large = cell < _SMALL_CELL
    width = max(cell * heads, 2.4)
    figure, (left, right) = panels(
        width + 4.4, max(cell * layers + 1.3, 2.8), 1, 2, sharey=True, width_ratios=(width, 3.2)
    )
    left.set_xticks(np.arange(heads + 1) - 0.5, minor=True)
    left.set_yticks(np.arange(layers + 1) - 0.5, minor=True)
    left.grid(which="major" if large else "minor", color=RULE, linewidth=0.6)
    left.tick_params(which="both", length=0)
    across = max(2, -(-len(emotions) // 2))
    for index, emotion in enumerate(emotions):
        places = np.asarray(head_ids[emotion], dtype=float).reshape(-1, 2)
        shift_x = (index % across + 1) / (across + 1) - 0.5
        shift_y = -0.2 if index < across else 0.2
        left.plot(
            places[:, 1] + shift_x,
            places[:, 0] + shift_y,
            linestyle="none",
            marker=shape[emotion],
            markersize=max(3.6, 12 * cell),
            markeredgewidth=0,
            color=paint[emotion],
            label=emotion,
        )
    left.set_xlim(-0.5, heads - 0.5)
    left.set_ylim(layers - 0.5, -0.5)
    left.set_xlabel("head")
    left.set_ylabel("layer")
    left.set_title("Heads")
    layer_ticks(left.xaxis)
    layer_ticks(left.yaxis)
    offset = np.zeros(layers)
    for emotion, counts in neurons_by_layer.items():
        right.barh(range(layers), counts, left=offset, height=0.72, color=paint.get(emotion, GREY), linewidth=0)
        offset += np.asarray(counts, dtype=float)
    right.set_xlabel("neurons, summed over emotions")
    right.set_title("Neurons")
    right.grid(axis="x")
    right.tick_params(axis="y", length=0)
    emotion_legend(figure, emotions)
    return figure
