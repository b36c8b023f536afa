import numpy as np
import pytest
from sklearn.manifold import TSNE

from emotrace.report import figures
from emotrace.report.figures.states import MOST_POINTS, perplexity
from tests.report.test_figures import EMOTIONS, lines


def titles(figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]


def test_clusters_by_tsne_are_scikit_learns_with_a_fixed_seed():
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 2
    states = (rng.normal(size=(40, 2, 6)) + 8 * labels[:, None, None]).astype(np.float32)
    figure = figures.clusters(states, labels, ("a", "b"), (3, 9), seed=5, method="tsne")
    assert titles(figure) == ["layer 3", "layer 9"]
    for k, axes in enumerate(figure.axes):
        expected = TSNE(perplexity=10.0, init="pca", random_state=5).fit_transform(states[:, k].astype(np.float64))
        for index, name in enumerate(("a", "b")):
            np.testing.assert_allclose(np.asarray(lines(axes, name).get_xydata()), expected[labels == index])
    apart = [np.asarray(lines(figure.axes[0], name).get_xydata()) for name in ("a", "b")]
    own = np.linalg.norm(apart[0] - apart[0].mean(0), axis=1).max()
    assert np.linalg.norm(apart[0].mean(0) - apart[1].mean(0)) > own


def test_tsne_is_thinned_and_its_perplexity_stays_below_the_points(monkeypatch):
    monkeypatch.setitem(MOST_POINTS, "tsne", 12)
    states = np.random.default_rng(0).normal(size=(60, 1, 4))
    figure = figures.clusters(states, np.arange(60) % 2, ("a", "b"), (0,), method="tsne")
    assert sum(len(line.get_xdata()) for line in figure.axes[0].lines) == 12
    for points in (2, 5, 40, 400):
        assert 1 <= perplexity(points) < points


def test_clusters_of_a_deep_model_have_a_panel_for_every_layer():
    states = np.random.default_rng(0).normal(size=(12, 80, 3))
    figure = figures.clusters(states, np.arange(12) % 6, EMOTIONS, range(80))
    assert titles(figure) == [f"layer {layer}" for layer in range(80)]


def depth_inputs(layers: int):
    rng = np.random.default_rng(0)
    norms = {site: rng.uniform(1, 2, (2, layers)).tolist() for site in ("attn", "mlp")}
    sigma = {site: rng.uniform(1, 2, layers).tolist() for site in ("attn", "mlp")}
    alignment = {site: rng.uniform(-0.5, 1, (2, layers)).tolist() for site in ("attn", "mlp")}
    return norms, sigma, alignment


def test_direction_depth_draws_lengths_over_sigma_and_cosines():
    norms, sigma, alignment = depth_inputs(5)
    figure = figures.direction_depth(norms, sigma, alignment, ("anger", "fear"), [3])
    lengths, turns = figure.axes[:2], figure.axes[2:]
    for site, length, turn in zip(("attn", "mlp"), lengths, turns, strict=True):
        for e, name in enumerate(("anger", "fear")):
            shown = np.asarray(lines(length, name).get_xydata())
            expected = [[layer, norms[site][e][layer] / sigma[site][layer]] for layer in range(5)]
            np.testing.assert_allclose(shown, expected)
            np.testing.assert_allclose(lines(turn, name).get_ydata(), alignment[site][e])
        assert length.get_yscale() == "log"
        assert turn.get_ylim()[0] < np.min(alignment[site])
        assert turn.get_ylim()[1] > 1
        (band,) = turn.patches
        assert (band.get_x(), band.get_width()) == (2.5, 1.0)
    assert [axes.get_title(loc="left") for axes in lengths] == ["After attention", "After MLP"]


@pytest.mark.parametrize("layers", [28, 80])
def test_depth_similarity_is_an_image_of_all_sublayers_with_layers_on_its_axes(layers):
    matrix = np.random.default_rng(0).uniform(-1, 1, (2 * layers, 2 * layers))
    figure = figures.depth_similarity({"anger": matrix.tolist(), "fear": (-matrix).tolist()})
    first, second, bar = figure.axes
    for axes, expected in ((first, matrix), (second, -matrix)):
        (image,) = axes.images
        np.testing.assert_allclose(image.get_array(), expected)
        assert image.get_clim() == (-1, 1)
        # two cells a layer: layer k spans k - 0.5 to k + 0.5, attention in its first half
        assert tuple(image.get_extent()) == (-0.5, layers - 0.5, layers - 0.5, -0.5)
        assert len(axes.get_xticks()) <= 12
    assert titles(figure)[:2] == ["anger", "fear"]
    assert bar.get_ylabel() == "cosine"


def test_depth_similarity_hides_panels_it_does_not_need():
    matrix = np.eye(4).tolist()
    figure = figures.depth_similarity(dict.fromkeys(("a", "b", "c", "d"), matrix))
    assert titles(figure)[:4] == ["a", "b", "c", "d"]
    assert sum(axes.get_visible() and bool(axes.images) for axes in figure.axes) == 4
    (axes, _) = figures.depth_similarity({"mean": matrix}).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer", "layer")


def test_affect_plane_joins_every_direction_to_its_rating():
    fit = {
        "emotions": ["anger", "fear"],
        "points": [[0.1, 0.2], [-0.3, 0.4]],
        "ratings": [[0.0, 0.5], [-0.6, 0.6]],
        "disparity": 0.314,
        "p": 0.0125,
    }
    (axes,) = figures.affect_plane(fit).axes
    for name, point, rating in zip(fit["emotions"], fit["points"], fit["ratings"], strict=True):
        np.testing.assert_allclose(lines(axes, name).get_xydata(), [point])
        joined = [np.asarray(line.get_xydata()).tolist() for line in axes.lines if len(line.get_xdata()) == 2]
        assert [rating, point] in joined
        opened = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
        assert rating in [np.asarray(line.get_xydata())[0].tolist() for line in opened]
        assert name in [text.get_text() for text in axes.texts]
    assert "disparity 0.31, p = 0.013" in axes.get_title(loc="left")
    assert axes.get_aspect() == 1


def test_emotion_curves_draw_every_emotions_own_curve_and_baseline():
    curve = {
        "k": [1, 4],
        "by_emotion": {
            e: {"top": [2.0 - i, 1.0 - i], "random": [3.0, 2.5 + i], "baseline": 3.0 + i} for i, e in enumerate("abcd")
        },
    }
    figure = figures.emotion_curves(curve, "heads", "reading", "{kind} zeroed")
    assert titles(figure) == list("abcd")
    for i, axes in enumerate(figure.axes[:4]):
        np.testing.assert_allclose(lines(axes, "top k by score").get_xydata(), [[1, 2.0 - i], [4, 1.0 - i]])
        np.testing.assert_allclose(lines(axes, "random k").get_xydata(), [[1, 3.0], [4, 2.5 + i]])
        np.testing.assert_allclose(lines(axes, "no edit").get_ydata(), [3.0 + i] * 2)
    # every column has its x label, under its lowest panel
    assert [axes.get_xlabel() for axes in figure.axes[:4]] == ["", "heads zeroed", "heads zeroed", "heads zeroed"]
    assert figure._supylabel.get_text() == "reading"
