"""Top-k against random components: what zeroing removes, what adding brings."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from emotrace.report.figures.style import BLUE, GREY, VERMILION, panels, styled


@styled
def dose_curves(curves: Mapping[str, Mapping[str, Any]], measure: str, x_label: str) -> Figure:
    """One panel per kind of component (heads, neurons) on a shared y axis, log2 x axis.

    Args:
        curves: kind -> ``{"k", "top", "top_band": [[lo, hi]], "random", "random_band", "baseline"}``; bands are 95 %.
        measure: label of the y axis.
        x_label: what k counts, with ``{kind}`` for heads or neurons.
    """
    figure, axes = panels(9.2, 3.5, 1, max(len(curves), 1), sharey=True)
    for panel, (kind, curve) in zip(axes, curves.items(), strict=False):
        _curve(panel, curve)
        panel.set_title(kind.capitalize())
        panel.set_xlabel(x_label.format(kind=kind))
    axes[0].set_ylabel(measure)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def emotion_curves(curve: Mapping[str, Any], kind: str, measure: str, x_label: str) -> Figure:
    """One kind's curves of every emotion, a panel each on shared axes.

    Args:
        curve: ``{"k", "by_emotion": {emotion: {"top", "random", "baseline"}}}``, means over that emotion's prompts.
        kind: heads or neurons.
        measure: label of the y axis.
        x_label: what k counts, with ``{kind}`` for heads or neurons.
    """
    by_emotion: Mapping[str, Any] = curve["by_emotion"]
    columns = min(len(by_emotion), 3)
    rows = -(-len(by_emotion) // columns)
    figure, axes = panels(9.2, 0.9 + 1.9 * rows, rows, columns, sharex=True, sharey=True)
    for index, (emotion, own) in enumerate(by_emotion.items()):
        panel = axes[index]
        _curve(panel, {**own, "k": curve["k"]})
        panel.set_title(emotion)
        last = index + columns >= len(by_emotion)
        panel.tick_params(labelbottom=last)
        panel.set_xlabel(x_label.format(kind=kind) if last else "")
    for panel in axes[len(by_emotion) :]:
        panel.set_visible(False)
    figure.supylabel(measure, fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _curve(axes: Axes, curve: Mapping[str, Any]) -> None:
    # k = 0 is the baseline, which has its own line: a log axis has no place for it
    keep = [i for i, k in enumerate(curve["k"]) if k > 0]
    ks = [curve["k"][i] for i in keep]
    for key, colour, marker, label in (("top", VERMILION, "o", "top k by score"), ("random", BLUE, "s", "random k")):
        values = [curve[key][i] for i in keep]
        if f"{key}_band" in curve:
            band = [curve[f"{key}_band"][i] for i in keep]
            low, high = [pair[0] for pair in band], [pair[1] for pair in band]
            axes.fill_between(ks, low, high, color=colour, alpha=0.2, linewidth=0)
            label += ", 95 % band"
        axes.plot(ks, values, marker=marker, markersize=5, color=colour, linewidth=1.8, label=label)
    axes.axhline(curve["baseline"], color=GREY, linewidth=1.2, linestyle="--", label="no edit")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ks[:: -(-len(ks) // 9)] if ks else []))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y")
