"""Where prompts' states lie: two-dimensional maps of the last token, layer by layer."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emotrace.report.figures.style import colours, emotion_legend, markers, panels, styled

Method = Literal["pca", "tsne"]
MOST_POINTS: dict[Method, int] = {"pca": 1200, "tsne": 400}
"""More are thinned out: the eye cannot tell them apart, and the time of t-SNE grows with them."""

_FEW_PANELS = 8


@styled
def clusters(
    states: np.ndarray,
    labels: np.ndarray,
    emotions: Sequence[str],
    layers: Sequence[int],
    seed: int = 0,
    method: Method = "pca",
) -> Figure:
    """Last-token states in two dimensions, one panel per layer, each layer mapped on its own.

    Args:
        states: float ``[N, K, D]``; K layers.
        labels: int ``[N]``, index into ``emotions``.
        emotions: names.
        layers: K layer indices, titles of the panels.
        seed: of the subsample drawn above ``MOST_POINTS``, and of t-SNE.
        method: ``pca``, the first two principal components of all N states; or ``tsne``, t-distributed stochastic
            neighbour embedding (van der Maaten & Hinton 2008, scikit-learn's), which keeps neighbours together, not
            distances.
    """
    chosen = np.arange(len(states))
    if len(chosen) > MOST_POINTS[method]:
        chosen = np.sort(np.random.default_rng(seed).choice(len(states), MOST_POINTS[method], replace=False))
    few = len(layers) <= _FEW_PANELS
    columns = min(len(layers), (5 if len(layers) == 5 else 4) if few else 7)
    rows = -(-len(layers) // columns)
    side = max(2.35 if few else 1.5, 9.2 / columns if columns > 4 else 0.0)
    figure, axes = panels(side * columns, side * rows + 0.5, rows, columns)
    paint, shape = colours(emotions), markers(emotions)
    for k, (panel, layer) in enumerate(zip(axes, layers, strict=False)):
        points, note = _mapped(states[:, k].astype(np.float64), chosen, method, seed)
        for index, name in enumerate(emotions):
            mine = points[labels[chosen] == index]
            panel.plot(
                mine[:, 0],
                mine[:, 1],
                linestyle="none",
                marker=shape[name],
                markersize=3.2 if few else 2.2,
                markeredgewidth=0,
                alpha=0.65,
                color=paint[name],
                rasterized=True,
                label=name,
            )
        panel.set_title(f"layer {layer}{note if few else ''}", fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
        for spine in panel.spines.values():
            spine.set_visible(True)
    for panel in axes[len(layers) :]:
        panel.set_visible(False)
    emotion_legend(figure, emotions)
    return figure


def _mapped(
    states: NDArray[np.float64], chosen: NDArray[np.int_], method: Method, seed: int
) -> tuple[NDArray[np.float64], str]:
    """The chosen states in two dimensions, and what the panel's title adds."""
    if method == "pca":
        from sklearn.decomposition import PCA

        fit = PCA(n_components=2, svd_solver="full" if states.shape[1] <= 512 else "randomized", random_state=seed)
        points = fit.fit(states).transform(states[chosen])
        return points, f", {100 * fit.explained_variance_ratio_.sum():.0f} % of variance"
    from sklearn.manifold import TSNE

    return TSNE(perplexity=perplexity(len(chosen)), init="pca", random_state=seed).fit_transform(states[chosen]), ""


def perplexity(points: int) -> float:
    """Neighbours that t-SNE weighs: 30 as usual, a quarter of the points where they are few (it must be below all).

    >>> perplexity(360), perplexity(40), perplexity(3)
    (30.0, 10.0, 1.0)
    """
    return float(min(30.0, max(points / 4, 1.0)))
