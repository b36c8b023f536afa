"""What happens with depth: separation of emotions, influence of sublayers."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from emotrace.report.figures.style import (
    BLUE,
    DIVERGING,
    GREY,
    RULE,
    VERMILION,
    layer_ticks,
    panels,
    styled,
    words,
)

_MOST_RULED = 40
"""Layers; lines between the cells of more would cover them."""


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
            edgecolors=RULE if table.shape[1] <= _MOST_RULED else "none",
            linewidth=0.5 if table.shape[1] <= _MOST_RULED else 0.0,
            rasterized=table.shape[1] > _MOST_RULED,
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
