"""The look shared by every figure: colours, fonts, axes, and how a figure becomes files."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from emotrace.artifacts import written_aside

# These three are placeholders as much as colours: the page replaces them by its own ink, rule and background, so that
# one drawing serves light and dark.
INK = "#1b2431"
RULE = "#d4d9e1"
PAPER = "#fffffe"

# Okabe & Ito (2008), told apart by readers with any common colour-vision deficiency.
ORANGE, SKY, GREEN, BLUE = "#e69f00", "#56b4e9", "#009e73", "#0072b2"
VERMILION, PURPLE, GREY = "#d55e00", "#cc79a7", "#8a919c"

_BY_EMOTION = {
    "anger": VERMILION,
    "sadness": BLUE,
    "happiness": ORANGE,
    "fear": PURPLE,
    "surprise": SKY,
    "disgust": GREEN,
    "neutral": GREY,
}
_CYCLE = (VERMILION, BLUE, ORANGE, PURPLE, SKY, GREEN, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

SEQUENTIAL = LinearSegmentedColormap.from_list("share", [(0.0, 0.447, 0.698, 0.0), (0.0, 0.447, 0.698, 1.0)])
DIVERGING = LinearSegmentedColormap.from_list(
    "signed",
    [
        (0.0, (0.835, 0.369, 0.0, 1.0)),
        (0.5, (0.835, 0.369, 0.0, 0.0)),
        (0.5, (0.0, 0.447, 0.698, 0.0)),
        (1.0, (0.0, 0.447, 0.698, 1.0)),
    ],
)

_STYLE: Any = {
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "emotrace",
    "savefig.dpi": 144,
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run ``draw`` under the report's matplotlib settings, whatever the caller's own are."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return inner


def colours(emotions: Sequence[str]) -> dict[str, str]:
    """One colour per emotion: fixed for the paper's six and neutral, by position for any other name."""
    return {name: _BY_EMOTION.get(name, _CYCLE[i % len(_CYCLE)]) for i, name in enumerate(emotions)}


def markers(emotions: Sequence[str]) -> dict[str, str]:
    """One marker per emotion, so that colour is never the only carrier."""
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(emotions)}


def emotion_legend(figure: Figure, emotions: Sequence[str], line: bool = False) -> None:
    """Each emotion's colour and marker below the figure, on a line where the figure draws lines."""
    paint, shape = colours(emotions), markers(emotions)
    handles = [
        Line2D(
            [],
            [],
            linestyle="-" if line else "none",
            linewidth=1.6,
            marker=shape[name],
            color=paint[name],
            markersize=5 if line else 6,
            label=name,
        )
        for name in emotions
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(emotions), 6))


def words(name: str) -> str:
    """An identifier as words: ``random_matched`` -> ``random matched``."""
    return name.replace("_", " ")


def layer_ticks(axis: Any) -> None:
    """Whole numbers only on a matplotlib axis that counts layers."""
    axis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` x ``height`` inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


@styled
def save_figure(figure: Figure, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write ``folder/name.svg`` and ``folder/name.png``; returns both paths. Equal figures give equal SVG bytes."""
    svg, png = Path(folder) / f"{name}.svg", Path(folder) / f"{name}.png"
    with written_aside(svg) as aside:
        figure.savefig(aside, format="svg", metadata={"Date": None})
    # the axes keep the places they were given for the SVG: working them out again would double the time
    figure.set_layout_engine("none")
    with written_aside(png) as aside:
        figure.savefig(aside, format="png")
    return svg, png
