"""Figures of a run: plain numbers in, a matplotlib ``Figure`` out; nothing here touches pyplot's global state."""

from emotrace.report.figures.comparison import comparison, confusion_matrix, similarity
from emotrace.report.figures.components import circuit_map, long_tail
from emotrace.report.figures.curves import dose_curves
from emotrace.report.figures.depth import clusters, influence, separation
from emotrace.report.figures.style import save_figure

__all__ = [
    "circuit_map",
    "clusters",
    "comparison",
    "confusion_matrix",
    "dose_curves",
    "influence",
    "long_tail",
    "save_figure",
    "separation",
    "similarity",
]
