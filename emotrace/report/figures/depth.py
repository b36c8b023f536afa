"""What happens with depth: clusters of states, separation, influence of sublayers."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emotrace.report.figures.style import (
    BLUE,
    DIVERGING,
    GREY,
    RULE,
    VERMILION,
    colours,
    layer_ticks,
    markers,
    panels,
    styled,
    words,
)

_MOST_POINTS = 1200


@styled
def clusters(
    states: np.ndarray, labels: np.ndarray, emotions: Sequence[str], layers: Sequence[int], seed: int = 0
) -> Figure:
    """Last-token states on their first two principal components, one panel per layer (PCA fitted per layer).

    Args:
        states: float ``[N, K, D]``; K layers.
        labels: int ``[N]``, index into ``emotions``.
        emotions: names.
        layers: K layer indices, titles of the panels.
        seed: of the subsample drawn above 1,200 points.
    """
    from sklearn.decomposition import PCA

    chosen = np.arange(len(states))
    if len(chosen) > _MOST_POINTS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(states), _MOST_POINTS, replace=False))
    columns = min(len(layers), 4)
    rows = -(-len(layers) // columns)
    figure, axes = panels(2.35 * columns, 2.35 * rows + 0.5, rows, columns)
    paint, shape = colours(emotions), markers(emotions)
    for k, (panel, layer) in enumerate(zip(axes, layers, strict=False)):
        fit = PCA(n_components=2, svd_solver="full" if states.shape[2] <= 512 else "randomized", random_state=seed)
        points = fit.fit(states[:, k].astype(np.float64)).transform(states[chosen, k].astype(np.float64))
        for index, name in enumerate(emotions):
            mine = points[labels[chosen] == index]
            panel.plot(
                mine[:, 0],
                mine[:, 1],
                linestyle="none",
                marker=shape[name],
                markersize=3.2,
                markeredgewidth=0,
                alpha=0.65,
                color=paint[name],
                rasterized=True,
                label=name,
            )
        panel.set_title(f"layer {layer}, {100 * fit.explained_variance_ratio_.sum():.0f} % of variance", fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
        for spine in panel.spines.values():
            spine.set_visible(True)
    for panel in axes[len(layers) :]:
        panel.set_visible(False)
    handles = [
        Line2D([], [], linestyle="none", marker=shape[name], color=paint[name], markersize=6, label=name)
        for name in emotions
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(emotions), 6))
    return figure


@styled
def separation(by_site: Mapping[str, Sequence[float]], emotions: int, reference_layers: Sequence[int] = ()) -> Figure:
    """Cross-validated accuracy of naming a state's emotion by its nearest direction, by layer.

    Args:
        by_site: ``{"resid_attn": [L], "resid_mlp": [L]}``, shares in [0, 1].
        emotions: how many; chance is one over it.
        reference_layers: layers that make up the reference direction, shaded.
    """
    figure, (axes,) = panels(6.4, 3.2)
    names = {"resid_attn": "after attention", "resid_mlp": "after MLP"}
    for (site, values), colour, marker in zip(by_site.items(), (BLUE, VERMILION, GREY), "so^", strict=False):
        axes.plot(
            range(len(values)),
            [100 * value for value in values],
            marker=marker,
            color=colour,
            linewidth=1.8,
            markersize=5,
            label=names.get(site, words(site)),
        )
    axes.axhline(100 / emotions, color=GREY, linestyle="--", linewidth=1.2, label="chance")
    for index, layer in enumerate(reference_layers):
        label = "reference layers" if index == 0 else None
        axes.axvspan(layer - 0.5, layer + 0.5, color=GREY, alpha=0.15, linewidth=0, label=label)
    axes.set_ylim(0, 103)
    layer_ticks(axes.xaxis)
    axes.set_xlabel("layer")
    axes.set_ylabel("states named rightly (%)")
    axes.grid(axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled
def influence(importance: Mapping[str, Sequence[Sequence[float]]], emotions: Sequence[str]) -> Figure:
    """Influence of each sublayer on the final emotion reading: emotions x layers, attention and MLP on one scale.

    Args:
        importance: ``{"attn": [E][L], "mlp": [E][L]}``, change of h_final . v_ref per unit of injected norm.
        emotions: names of the rows.
    """
    tables = {site: np.asarray(values, dtype=float) for site, values in importance.items()}
    top = max((float(np.abs(table).max()) for table in tables.values()), default=1.0) or 1.0
    figure, axes = panels(9.4, 1.3 + 0.36 * len(emotions), 1, max(len(tables), 1), sharey=True)
    names = {"attn": "Attention", "mlp": "MLP"}
    mesh = None
    for panel, (site, table) in zip(axes, tables.items(), strict=False):
        mesh = panel.pcolormesh(
            np.arange(table.shape[1] + 1) - 0.5,
            np.arange(len(emotions) + 1) - 0.5,
            table,
            cmap=DIVERGING,
            vmin=-top,
            vmax=top,
            edgecolors=RULE,
            linewidth=0.5,
        )
        panel.set_title(names.get(site, words(site)))
        panel.set_xlabel("layer")
        layer_ticks(panel.xaxis)
        panel.set_ylim(len(emotions) - 0.5, -0.5)
        panel.set_yticks(range(len(emotions)), emotions)
        panel.tick_params(length=0)
        for spine in panel.spines.values():
            spine.set_visible(False)
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=axes, shrink=0.9, pad=0.02)
        bar.set_label("influence per unit injected", fontsize=8.5)
        bar.outline.set_visible(False)
    return figure
