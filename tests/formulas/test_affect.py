"""The plane of valence and arousal against scipy's Procrustes, a loop over all labelings, and known planes."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import procrustes
from sklearn.decomposition import PCA

from emotrace.data.concepts import PAPER_SIX
from emotrace.errors import DataError
from emotrace.formulas import affect
from emotrace.formulas.affect import affect_plane

RATINGS = np.array([PAPER_SIX.ratings[e] for e in PAPER_SIX.labels])


def directions(seed: int, emotions: int = 6, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(emotions, width))


def test_the_papers_emotions_have_ratings():
    assert set(PAPER_SIX.ratings) == set(PAPER_SIX.labels)
    assert np.abs(RATINGS).max() <= 1
    assert "1977" in PAPER_SIX.ratings_source
    assert min(PAPER_SIX.ratings, key=lambda e: PAPER_SIX.ratings[e][1]) == "sadness"


def test_a_plane_that_is_there_is_found():
    """Ratings turned, mirrored, scaled and moved into a wide space come back as they were."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(32, 2)))
    mirrored = RATINGS * [1, -1]
    fit = affect_plane(3.7 * mirrored @ basis.T + rng.normal(size=32), RATINGS)
    np.testing.assert_allclose(fit.points, RATINGS, atol=1e-12)
    assert fit.disparity == pytest.approx(0, abs=1e-12)
    assert fit.explained == pytest.approx(1)
    assert fit.correlations == pytest.approx((1, 1))
    assert fit.p == pytest.approx(1 / 720)
    assert fit.labelings == 720


def test_fit_is_scipys_procrustes_of_sklearns_components():
    vectors = directions(3)
    pca = PCA(2).fit(vectors)
    standard, fitted, disparity = procrustes(RATINGS, pca.transform(vectors))
    centred = RATINGS - RATINGS.mean(0)
    fit = affect_plane(vectors, RATINGS)
    np.testing.assert_allclose(fit.points, fitted * np.linalg.norm(centred) + RATINGS.mean(0), atol=1e-12)
    assert fit.disparity == pytest.approx(disparity)
    assert fit.disparity == pytest.approx(np.square(fit.points - RATINGS).sum() / np.square(centred).sum())
    assert fit.explained == pytest.approx(pca.explained_variance_ratio_.sum())
    by_scipy = [stats.pearsonr(standard[:, axis], fitted[:, axis]).statistic for axis in (0, 1)]
    assert fit.correlations == pytest.approx(tuple(by_scipy))


def test_p_counts_every_labeling():
    vectors = directions(5, emotions=5)
    fit = affect_plane(vectors, RATINGS[:5])
    points = PCA(2).fit_transform(vectors)
    loop = np.array([procrustes(RATINGS[:5], points[list(order)])[2] for order in permutations(range(5))])
    assert fit.labelings == 120
    assert fit.p == pytest.approx((loop <= fit.disparity + 1e-12).mean())
    assert fit.chance_disparity == pytest.approx(loop.mean())


def test_random_directions_give_uniform_p():
    found = [affect_plane(directions(seed, emotions=5), RATINGS[:5]).p for seed in range(150)]
    assert stats.kstest(found, "uniform").pvalue > 0.05
    assert 0.4 < np.mean(found) < 0.6


def test_many_concepts_are_compared_with_labelings_drawn_by_seed(monkeypatch):
    monkeypatch.setattr(affect, "LABELINGS", 400)
    ratings = np.random.default_rng(1).uniform(-1, 1, size=(6, 2))
    drawn, again, other = (affect_plane(directions(2), ratings, seed=seed) for seed in (0, 0, 1))
    assert drawn.labelings == 400
    assert (drawn.p, drawn.chance_disparity) == (again.p, again.chance_disparity)
    assert drawn.chance_disparity != other.chance_disparity
    monkeypatch.undo()
    assert drawn.p == pytest.approx(affect_plane(directions(2), ratings).p, abs=0.1)


@pytest.mark.parametrize(
    ("vectors", "ratings", "says"),
    [
        (np.ones((3, 4)), np.ones((3, 2)), "at least 4 concepts, got 3"),
        (np.ones((5, 4)), np.ones((4, 2)), "same E concepts"),
        (np.ones(5), np.ones((5, 2)), "same E concepts"),
        (np.ones((5, 4)), RATINGS[:5], "span no plane"),
        (np.outer(np.arange(5.0), np.ones(4)), RATINGS[:5], "span no plane"),
        (directions(0, 5), np.outer(np.arange(5.0), [1, 2]), "span no plane"),
        (np.full((5, 4), np.nan), RATINGS[:5], "not finite"),
    ],
)
def test_what_has_no_plane_is_refused(vectors, ratings, says):
    with pytest.raises(DataError, match=says):
        affect_plane(vectors, ratings)
