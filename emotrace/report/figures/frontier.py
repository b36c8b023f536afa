"""What success costs in fluency, setting by setting."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator

from emotrace.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    panels,
    styled,
    words,
)

_BY_ARM = {
    "circuit": VERMILION,
    "residual": BLUE,
    "random_matched": SKY,
    "random_matched_rescaled": GREEN,
    "random_anywhere": PURPLE,
    "random_direction": ORANGE,
}
_CYCLE = (VERMILION, BLUE, SKY, GREEN, PURPLE, ORANGE)
_SINGLE = {"prompting": "*", "unsteered": "X"}


@styled
def frontier(arms: Mapping[str, Mapping[str, Any]], fluency_bar: float = 0.1) -> Figure:
    """Accuracy against fluency gap of every setting tried, a line through each arm's best trade-offs.

    Args:
        arms: name -> ``{"points": [{"strength", "accuracy", "gap", "on_frontier"}], "area"}``; accuracies are shares in
            [0, 1], gaps nats per token against prompted replies (None: not measured, not drawn), ``area`` the area
            under the arm's frontier (None where there is none), as in :mod:`emotrace.formulas.frontier`. An arm whose
            points have no strength is a single mark; the line of any other goes from its smallest gap, whatever its
            sign, to its largest.
        fluency_bar: half-width of the band around 0 that counts as fluent; the x axis is linear within it,
            logarithmic beyond.
    """
    figure, (axes,) = panels(9.2, 4.6)
    axes.axvspan(-fluency_bar, fluency_bar, color=BLUE, alpha=0.1, linewidth=0)
    axes.axvline(0, color=GREY, linewidth=1)
    for index, (name, arm) in enumerate(arms.items()):
        points = [point for point in arm["points"] if point["gap"] is not None]
        area = "" if arm["area"] is None else f", area {arm['area']:.3f}"
        label = f"{words(name)}{area}"
        if all(point["strength"] is None for point in points):
            axes.plot(
                *_places(points),
                linestyle="none",
                marker=_SINGLE.get(name, "d"),
                color=INK,
                markerfacecolor="none",
                markersize=13 if name == "prompting" else 9,
                markeredgewidth=1.3,
                label=label,
                zorder=3,
                clip_on=False,
            )
            continue
        colour = _BY_ARM.get(name, _CYCLE[index % len(_CYCLE)])
        best = sorted((point for point in points if point["on_frontier"]), key=lambda point: abs(point["gap"]))
        axes.plot(
            *_places(points),
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            color=colour,
            markersize=4,
            markeredgewidth=0,
            alpha=0.6,
            clip_on=False,
        )
        axes.plot(
            *_places(best),
            marker=MARKERS[index % len(MARKERS)],
            color=colour,
            markersize=6.5,
            markeredgewidth=0,
            linewidth=1.8,
            label=label,
            clip_on=False,
        )
    axes.set_xscale("symlog", linthresh=fluency_bar, linscale=0.6)
    axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=fluency_bar, subs=[1, 2, 5]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.set_ylim(0, 102)
    axes.set_xlabel(f"gap to prompted replies (nats per token; linear within {fluency_bar:g}, shaded)")
    axes.set_ylabel("replies judged as asked (%)")
    axes.grid(axis="both")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


def _places(points: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [point["gap"] for point in points], [100 * point["accuracy"] for point in points]
