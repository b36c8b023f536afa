"""The directions themselves: their length and turn with depth, their likeness, and the plane of affect."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emotrace.report.figures.style import (
    DIVERGING,
    GREY,
    INK,
    RULE,
    colours,
    emotion_legend,
    layer_ticks,
    markers,
    panels,
    styled,
    words,
)

SUBLAYERS = {"attn": "After attention", "mlp": "After MLP"}


@styled
def direction_depth(
    norms: Mapping[str, Sequence[Sequence[float]]],
    sigma: Mapping[str, Sequence[float]],
    alignment: Mapping[str, Sequence[Sequence[float]]],
    emotions: Sequence[str],
    reference_layers: Sequence[int] = (),
) -> Figure:
    """Length of each emotion's mean difference, and its cosine with the reference direction, by layer and sublayer.

    Args:
        norms: ``{"attn": [E][L], "mlp": [E][L]}``, lengths of the mean differences.
        sigma: ``{"attn": [L], "mlp": [L]}``, root mean square of neutral prompts' states; lengths are drawn over it,
            on a log axis.
        alignment: ``{"attn": [E][L], "mlp": [E][L]}``, cosines in [-1, 1].
        emotions: names of the E lines.
        reference_layers: layers that make up the reference direction, shaded.
    """
    figure, axes = panels(9.2, 5.2, 2, len(SUBLAYERS), sharex=True, sharey="row")
    paint, shape = colours(emotions), markers(emotions)
    for column, (site, title) in enumerate(SUBLAYERS.items()):
        length, turn = axes[column], axes[len(SUBLAYERS) + column]
        layers = range(len(sigma[site]))
        relative = np.asarray(norms[site], dtype=float) / np.asarray(sigma[site], dtype=float)
        for panel, rows in ((length, relative), (turn, np.asarray(alignment[site], dtype=float))):
            for name, values in zip(emotions, rows, strict=True):
                panel.plot(
                    layers,
                    values,
                    color=paint[name],
                    marker=shape[name],
                    markersize=4 if len(layers) <= 32 else 2.2,
                    markeredgewidth=0,
                    linewidth=1.4,
                    label=name,
                )
            for layer in reference_layers:
                panel.axvspan(layer - 0.5, layer + 0.5, color=GREY, alpha=0.15, linewidth=0)
            panel.grid(axis="y")
            layer_ticks(panel.xaxis)
        length.set_title(title)
        length.set_yscale("log")
        turn.set_ylim(min(0.0, *(float(np.min(alignment[name])) for name in SUBLAYERS)) - 0.03, 1.03)
        turn.axhline(0, color=GREY, linewidth=1)
        turn.set_xlabel("layer")
    axes[0].set_ylabel("length of the difference / sigma")
    axes[len(SUBLAYERS)].set_ylabel("cosine with reference")
    emotion_legend(figure, emotions, line=True)
    return figure


@styled
def depth_similarity(matrices: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Cosines between the directions at every two places of the model, one heat map per entry.

    Args:
        matrices: title -> ``[2L][2L]`` cosines in [-1, 1]; places run attention of layer 0, MLP of layer 0, attention
            of layer 1 and so on, so that a layer is two cells wide, attention first.
    """
    columns = min(len(matrices), 3)
    rows = -(-len(matrices) // columns)
    side = 5.2 if len(matrices) == 1 else 2.75
    figure, axes = panels(side * columns + 0.9, side * rows + 0.2, rows, columns, sharex=True, sharey=True)
    image = None
    for panel, (title, matrix) in zip(axes, matrices.items(), strict=False):
        table = np.asarray(matrix, dtype=float)
        edge = len(table) / 2 - 0.5
        # an image, not one shape per cell: a model of 80 layers has 25,600 of them
        image = panel.imshow(
            table, cmap=DIVERGING, vmin=-1, vmax=1, extent=(-0.5, edge, edge, -0.5), interpolation="nearest"
        )
        panel.set_title(title)
        layer_ticks(panel.xaxis)
        layer_ticks(panel.yaxis)
        for spine in panel.spines.values():
            spine.set_visible(True)
    for panel in axes[len(matrices) :]:
        panel.set_visible(False)
    for index in range(len(matrices)):
        last = index + columns >= len(matrices)
        axes[index].tick_params(labelbottom=last)
        axes[index].set_xlabel("layer" if last else "")
        axes[index].set_ylabel("" if index % columns else "layer")
    if image is not None:
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
        bar.set_label("cosine", fontsize=8.5)
        bar.outline.set_visible(False)
    return figure


@styled
def affect_plane(fit: Mapping[str, Any]) -> Figure:
    """Directions laid on the plane of valence and arousal, each joined to where people rate its emotion.

    Args:
        fit: ``{"emotions": [E], "points": [E][2], "ratings": [E][2], "disparity", "p"}``, valence and arousal.
    """
    emotions: Sequence[str] = fit["emotions"]
    points, ratings = (np.asarray(fit[key], dtype=float) for key in ("points", "ratings"))
    figure, (axes,) = panels(5.6, 4.9)
    paint, shape = colours(emotions), markers(emotions)
    axes.axhline(0, color=RULE, linewidth=1)
    axes.axvline(0, color=RULE, linewidth=1)
    for name, point, rating in zip(emotions, points, ratings, strict=True):
        axes.plot(*zip(rating, point, strict=True), color=paint[name], linewidth=1, alpha=0.7)
        axes.plot(
            *rating, marker=shape[name], color=paint[name], markerfacecolor="none", markersize=8, linestyle="none"
        )
        axes.plot(*point, marker=shape[name], color=paint[name], markersize=8, linestyle="none", label=name)
        axes.annotate(
            words(name), point, xytext=(7, 5), textcoords="offset points", fontsize=9, color=INK, annotation_clip=False
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.14)
    axes.set_xlabel("valence (displeasure to pleasure)")
    axes.set_ylabel("arousal (calm to excited)")
    p = fit["p"]
    axes.set_title(f"filled: directions, open: ratings; disparity {fit['disparity']:.2f}, p = {p:.2g}", fontsize=9)
    return figure
