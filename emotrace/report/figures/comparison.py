"""What steering achieved: arms side by side."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emotrace.report.figures.style import (
    BLUE,
    GREY,
    INK,
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
