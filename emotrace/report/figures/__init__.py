"""Figures of a run: plain numbers in, a matplotlib ``Figure`` out; nothing here touches pyplot's global state."""

from emotrace.report.figures.comparison import comparison
from emotrace.report.figures.components import circuit_map, long_tail
from emotrace.report.figures.curves import dose_curves, emotion_curves
from emotrace.report.figures.depth import influence, separation
from emotrace.report.figures.directions import affect_plane, depth_similarity, direction_depth
from emotrace.report.figures.explorer import strength_curves
from emotrace.report.figures.frontier import frontier
from emotrace.report.figures.matrices import confusion_matrices, confusion_matrix, similarity
from emotrace.report.figures.quality import faithfulness_curves, specificity_matrix, stability_bars
from emotrace.report.figures.states import Method, clusters
from emotrace.report.figures.style import save_figure

__all__ = [
    "Method",
    "affect_plane",
    "circuit_map",
    "clusters",
    "comparison",
    "confusion_matrices",
    "confusion_matrix",
    "depth_similarity",
    "direction_depth",
    "dose_curves",
    "emotion_curves",
    "faithfulness_curves",
    "frontier",
    "influence",
    "long_tail",
    "save_figure",
    "separation",
    "similarity",
    "specificity_matrix",
    "stability_bars",
    "strength_curves",
]
