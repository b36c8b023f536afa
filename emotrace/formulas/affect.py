"""How well directions lie on the plane of valence and arousal that people's ratings span."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.stats import permutation_test

from emotrace.errors import DataError

FEWEST = 4
"""Three points fit any three nearly as well: a triangle has little shape."""
LABELINGS = 40_320
"""All labelings are counted up to this many (8 concepts); of more, this many are drawn at random."""


@dataclass(frozen=True)
class AffectPlane:
    """Directions fitted onto ratings.

    Attributes:
        points: float64 ``[E, 2]``, the directions on the ratings' own scale: valence, arousal.
        explained: share of the directions' variance on their first two principal components, in [0, 1].
        disparity: squared distance that is left, over the ratings' own spread: 0 is a perfect fit, 1 none.
        chance_disparity: its mean over labelings.
        correlations: Pearson correlation of the fitted and the rated valence, and arousal.
        p: share of labelings, the true one among them, that fit at least as well.
        labelings: how many were compared.
    """

    points: NDArray[np.float64]
    explained: float
    disparity: float
    chance_disparity: float
    correlations: tuple[float, float]
    p: float
    labelings: int


def affect_plane(directions: ArrayLike, ratings: ArrayLike, *, seed: int = 0) -> AffectPlane:
    """Fit the first two principal components of directions onto ratings, by moving, turning, mirroring and scaling.

    The fit (orthogonal Procrustes, Schönemann 1966) has four free numbers, so that a few points always fit to some
    degree: ``p`` compares the disparity with that of every way to hand the ratings to other concepts.

    Args:
        directions: ``[E, D]``, one row per concept.
        ratings: ``[E, 2]``, valence and arousal of the same concepts.
        seed: of the labelings that are drawn, where there are more than ``LABELINGS``.

    Raises:
        DataError: fewer than four concepts, shapes that do not fit, values that are not finite, or points that
            span no plane.
    """
    vectors, rated = np.asarray(directions, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    if vectors.ndim != 2 or rated.shape != (len(vectors), 2):
        raise DataError(
            f"directions must be [E, D] and ratings [E, 2] of the same E concepts, got {vectors.shape}, {rated.shape}"
        )
    if len(vectors) < FEWEST:
        raise DataError(f"a plane of valence and arousal needs at least {FEWEST} concepts, got {len(vectors)}")
    if not np.isfinite(vectors).all() or not np.isfinite(rated).all():
        raise DataError("directions or ratings hold values that are not finite")
    components, explained = _plane(vectors)
    target = rated - rated.mean(0)
    spread = np.linalg.norm(target)
    if np.linalg.matrix_rank(target) < 2 or np.linalg.matrix_rank(components) < 2:
        raise DataError("directions or ratings lie on a line: they span no plane of valence and arousal")
    source, target = components / np.linalg.norm(components), target / spread
    turn, fit = orthogonal_procrustes(source, target)

    def fits(order: NDArray[np.int_], axis: int = -1) -> NDArray[np.float64]:
        crossed = np.einsum("...ei,ej->...ij", source[np.moveaxis(order, axis, -1)], target)
        return np.asarray(np.linalg.svd(crossed, compute_uv=False).sum(-1))

    test = permutation_test(
        (np.arange(len(source)),),
        fits,
        permutation_type="pairings",
        alternative="greater",
        n_resamples=LABELINGS,
        vectorized=True,
        batch=LABELINGS,
        rng=np.random.default_rng(seed),
    )
    points = float(fit) * spread * (source @ turn) + rated.mean(0)
    along = [float(np.corrcoef(points[:, axis], rated[:, axis])[0, 1]) for axis in (0, 1)]
    chance: Any = test.null_distribution
    return AffectPlane(
        points,
        explained,
        float(1 - fit**2),
        float(np.mean(1 - np.square(chance))),
        (along[0], along[1]),
        float(test.pvalue),
        len(chance),
    )


def _plane(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The centred rows on their first two principal components, and the share of variance that these hold."""
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    variance = np.square(sizes)
    if not variance.sum() or len(sizes) < 2:
        raise DataError("directions or ratings lie on a line: they span no plane of valence and arousal")
    return left[:, :2] * sizes[:2], float(variance[:2].sum() / variance.sum())
