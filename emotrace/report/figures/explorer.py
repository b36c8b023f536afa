"""How an emotion's circuit steers at several sizes and strengths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotrace.report.figures.style import BLUE, GREEN, GREY, MARKERS, PURPLE, VERMILION, panels, styled

# the colours of the palette that stand out from a light page as well as from a dark one
LINES = (BLUE, GREEN, VERMILION, PURPLE, GREY)


@styled
def strength_curves(
    strengths: Sequence[float],
    accuracy: Sequence[Sequence[float]],
    accuracy_ci: Sequence[Sequence[Sequence[float]]],
    gaps: Sequence[Sequence[float | None]],
    budgets: Sequence[str],
    emotion: str,
    fluency_bar: float,
) -> Figure:
    """Share of replies judged as the emotion, and fluency gap, against strength; one line per budget.

    What belongs to a budget alone has the group id ``b<budget>-<panel>``, each mark ``b<budget>s<strength>-<panel>``,
    with places in ``budgets`` and ``strengths``; panels are ``accuracy`` and ``gap``.

    Args:
        strengths: ``[S]``.
        accuracy: ``[B][S]`` shares in [0, 1].
        accuracy_ci: ``[B][S][2]``, their 95 % intervals.
        gaps: ``[B][S]`` nats per token against prompted replies, None where there is none.
        budgets: ``[B]`` names of the lines.
        emotion: what replies are judged for.
        fluency_bar: half-width of the band around 0 that counts as fluent.
    """
    figure, (left, right) = panels(9.2, 3.6, 1, 2, sharex=True)
    step = 0.012 * (max(strengths) - min(strengths))
    for index, label in enumerate(budgets):
        # moved apart a little, so that intervals of several budgets can be told from each other
        places = np.asarray(strengths) + step * (index - (len(budgets) - 1) / 2)
        shares = 100 * np.asarray(accuracy[index])
        around = 100 * np.asarray(accuracy_ci[index])
        bars = left.vlines(places, around[:, 0], around[:, 1], color=_colour(index), linewidth=1.2)
        bars.set_gid(f"b{index}-interval")
        _line(left, "accuracy", index, places, shares, label)
        _line(right, "gap", index, places, np.array(gaps[index], dtype=float), label)
    left.set_ylim(-3, 103)
    left.set_title(f"Replies judged {emotion}")
    left.set_ylabel("share, 95 % interval (%)")
    right.axhspan(-fluency_bar, fluency_bar, color=BLUE, alpha=0.12, linewidth=0)
    right.set_title(f"Fluency gap (band: within {fluency_bar:g})")
    right.set_ylabel("nats per token")
    for axes in (left, right):
        axes.set_xlabel("strength")
        axes.set_xticks(strengths, [f"{strength:g}" for strength in strengths])
        axes.grid(axis="y")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(budgets), 4))
    return figure


def _line(axes: Axes, panel: str, index: int, places: np.ndarray, values: np.ndarray, label: str) -> None:
    look: dict[str, Any] = {"color": _colour(index), "marker": MARKERS[index % len(MARKERS)], "markersize": 5.5}
    axes.plot(places, values, color=_colour(index), linewidth=1.8, gid=f"b{index}-{panel}")
    axes.plot([], [], linewidth=1.8, label=label, **look)  # for the legend
    for place, (x, y) in enumerate(zip(places, values, strict=True)):
        if np.isfinite(y):
            axes.plot([x], [y], linestyle="none", clip_on=False, gid=f"b{index}s{place}-{panel}", **look)


def _colour(index: int) -> str:
    return LINES[index % len(LINES)]
