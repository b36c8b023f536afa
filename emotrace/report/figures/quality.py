"""How good a circuit is: faithfulness, stability, specificity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from emotrace.report.figures.matrices import draw_matrix
from emotrace.report.figures.style import BLUE, GREY, INK, ORANGE, VERMILION, panels, styled, words


@styled
def faithfulness_curves(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Faithfulness against the share of components that is left, one panel per ablation of all others.

    Args:
        curves: ablation (zero, mean, resample) -> ``{"shares": [K], "faithfulness": [K], "band": [K][2], "random": [K],
            "random_band": [K][2]}``, bands 95 %, and optionally ``"circuit": {"share", "faithfulness", "ci": [2]}``.
            Shares lie in (0, 1]. Faithfulness is 0 with everything ablated and 1 with nothing ablated. In place of
            its curves an ablation may have ``"undefined"``, why it has none: the panel says so.
    """
    figure, axes = panels(9.2, 3.6, 1, max(len(curves), 1), sharex=True, sharey=True)
    for panel, (ablation, curve) in zip(axes, curves.items(), strict=False):
        panel.set_title(words(ablation).capitalize())
        panel.axhline(0, color=GREY, linewidth=1)
        panel.axhline(1, color=GREY, linewidth=1)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(base=10))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
        panel.set_xlabel("components left (%)")
        panel.grid(axis="y")
        if curve.get("undefined"):
            panel.text(0.5, 0.5, "undefined", transform=panel.transAxes, ha="center", va="center", color=INK)
        else:
            _faithfulness(panel, curve)
    axes[0].set_ylabel("faithfulness")
    labels = {label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=3)
    return figure


def _faithfulness(axes: Axes, curve: Mapping[str, Any]) -> None:
    shares = curve["shares"]
    for key, band, colour, marker, label in (
        ("faithfulness", "band", VERMILION, "o", "best components, 95 % band"),
        ("random", "random_band", BLUE, "s", "random components, 95 % band"),
    ):
        low, high = zip(*curve[band], strict=True)
        axes.fill_between(shares, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(shares, curve[key], marker=marker, markersize=4.5, color=colour, linewidth=1.8, label=label)
    circuit = curve.get("circuit")
    if circuit is not None:
        value = circuit["faithfulness"]
        around = [[max(value - circuit["ci"][0], 0.0)], [max(circuit["ci"][1] - value, 0.0)]]
        axes.errorbar(
            [circuit["share"]],
            [value],
            yerr=around,
            fmt="*",
            color=INK,
            markersize=11,
            elinewidth=1.2,
            capsize=3,
            label="the circuit, 95 % interval",
            zorder=3,
        )


@styled
def stability_bars(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """How alike circuits come out when something varies: overlap of their members, correlation of all scores.

    Args:
        rows: ``{"source", "site", "jaccard", "jaccard_ci", "rank", "rank_ci"}``: what varied (scenarios, paraphrase,
            implied), heads or neurons, Jaccard index in [0, 1], rank correlation in [-1, 1], and their intervals
            ``[lo, hi]`` (None: none is drawn). A source's sites stand side by side.
    """
    sources = list(dict.fromkeys(row["source"] for row in rows))
    sites = list(dict.fromkeys(row["site"] for row in rows))
    figure, axes = panels(9.2, 1.5 + 0.62 * len(sources), 1, 2, sharey=True)
    for panel, (key, title, low) in zip(
        axes,
        (("jaccard", "Members in common (Jaccard)", 0.0), ("rank", "Rank correlation of scores", -1.0)),
        strict=True,
    ):
        smallest = 0.0
        for site, colour, marker in zip(sites, (VERMILION, BLUE, ORANGE), "so^", strict=False):
            mine = [row for row in rows if row["site"] == site]
            values = np.array([row[key] for row in mine], dtype=float)
            ci = np.array([row.get(f"{key}_ci") or [row[key]] * 2 for row in mine], dtype=float).reshape(-1, 2)
            shift = 0.3 * ((sites.index(site) + 0.5) / len(sites) - 0.5) * 2
            places = np.array([sources.index(row["source"]) for row in mine]) + shift
            panel.barh(places, values, height=0.5 / len(sites), color=colour, alpha=0.35, linewidth=0)
            panel.errorbar(
                values,
                places,
                xerr=np.clip(np.abs(ci - values[:, None]).T, 0, None),
                fmt=marker,
                color=colour,
                markersize=5.5,
                elinewidth=1.4,
                capsize=3,
                label=words(site),
            )
            smallest = min(smallest, float(ci.min(initial=0.0)))
        panel.set_xlim(max(low, smallest - 0.05) if smallest < 0 else 0.0, 1.0)
        panel.axvline(0, color=GREY, linewidth=1)
        panel.set_title(title)
        panel.set_yticks(range(len(sources)), [words(source) for source in sources])
        panel.set_ylim(len(sources) - 0.5, -0.5)
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
        panel.grid(axis="x")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(sites) or 1)
    return figure


@styled
def specificity_matrix(
    matrix: Sequence[Sequence[float]],
    emotions: Sequence[str],
    measure: str = "change of the reading",
    done: str = "driven",
) -> Figure:
    """What driving (or ablating) one emotion's circuit does to the reading of every emotion.

    Args:
        matrix: ``[E][E]``, signed; rows are the circuit that is driven, columns the emotion that is read.
        emotions: E names.
        measure: label of the colour bar.
        done: what is done to the circuits, in a word.
    """
    table = np.asarray(matrix, dtype=float).reshape(len(emotions), len(emotions))
    top = float(np.abs(table).max(initial=0.0)) or 1.0
    figure, (axes,) = panels(2.8 + 0.66 * len(emotions), 1.3 + 0.46 * len(emotions))
    mesh = draw_matrix(
        axes, table, emotions, emotions, lambda value: f"{value:.2g}".replace("-", "−"), signed=True, top=top
    )
    axes.set_xlabel("emotion read")
    axes.set_ylabel(f"circuit {done}")
    bar = figure.colorbar(mesh, ax=axes, shrink=0.9, pad=0.03)
    bar.set_label(measure, fontsize=8.5)
    bar.outline.set_visible(False)
    return figure
