import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from emotrace.report import figures
from emotrace.report.figures.style import MARKERS, colours, markers, styled

EMOTIONS = ("anger", "sadness", "happiness", "fear", "surprise", "disgust")


def arm(accuracy: float, low: float, high: float, gap: float) -> dict:
    by_emotion = {e: {"accuracy": accuracy - 0.01 * i} for i, e in enumerate(EMOTIONS)}
    return {"accuracy": accuracy, "accuracy_ci": [low, high], "fluency_gap_nats": gap, "by_emotion": by_emotion}


def lines(axes, label: str):
    return next(line for line in axes.lines if line.get_label() == label)


def test_comparison_shows_every_arm_with_its_interval_and_gap():
    arms = {"unsteered": arm(0.1, 0.06, 0.15, 0.5), "circuit": arm(0.99, 0.97, 0.995, 0.03)}
    left, right = figures.comparison(arms).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["unsteered", "circuit"]
    container = left.containers[0]
    np.testing.assert_allclose(container.lines[0].get_xdata(), [10, 99])
    bars = next(c for c in container.lines[2] if isinstance(c, LineCollection))
    np.testing.assert_allclose([segment[:, 0] for segment in bars.get_segments()], [[6, 15], [97, 99.5]])
    for index, emotion in enumerate(EMOTIONS):
        np.testing.assert_allclose(lines(left, emotion).get_xdata(), [10 - index, 99 - index])
    np.testing.assert_allclose(right.lines[-1].get_xdata(), [0.5, 0.03])


def test_confusion_matrix_shows_row_shares_and_leaves_an_empty_row_blank():
    figure = figures.confusion_matrix([[3, 1, 0], [0, 0, 0]], ["anger", "fear"], ["anger", "fear", "neutral"])
    (axes,) = figure.axes
    mesh = next(c for c in axes.collections if isinstance(c, QuadMesh))
    np.testing.assert_allclose(mesh.get_array(), [[0.75, 0.25, 0], [0, 0, 0]])
    assert [text.get_text() for text in axes.texts] == ["75", "25", "", "", "", ""]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["anger", "fear"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["anger", "fear", "neutral"]
    assert axes.yaxis_inverted()


def test_similarity_is_signed_for_cosines():
    (axes,) = figures.similarity([[1, -0.5], [-0.5, 1]], ["a", "b"], "Cosine", signed=True).axes
    mesh = axes.collections[0]
    assert mesh.get_clim() == (-1, 1)
    assert [text.get_text() for text in axes.texts] == ["1.00", "−0.50", "−0.50", "1.00"]


def test_dose_curves_draw_both_curves_bands_and_baseline_on_a_log2_axis():
    curve = {
        "k": [0, 1, 2, 8],
        "top": [3.0, 2.0, 1.0, 0.2],
        "top_band": [[3, 3], [1.8, 2.2], [0.7, 1.3], [0.1, 0.3]],
        "random": [3.0, 2.9, 2.8, 2.5],
        "random_band": [[3, 3], [2.7, 3.1], [2.6, 3.0], [2.2, 2.8]],
        "baseline": 3.0,
    }
    figure = figures.dose_curves({"heads": curve, "neurons": curve}, "reading", "{kind} zeroed")
    heads, neurons = figure.axes
    assert heads.get_xlabel() == "heads zeroed"
    assert neurons.get_xlabel() == "neurons zeroed"
    assert heads.get_ylabel() == "reading"
    assert heads.get_xscale() == "log"
    assert heads.xaxis.get_transform().base == 2
    np.testing.assert_allclose(lines(heads, "top k by score, 95 % band").get_xydata(), [[1, 2], [2, 1], [8, 0.2]])
    np.testing.assert_allclose(lines(heads, "random k, 95 % band").get_xydata(), [[1, 2.9], [2, 2.8], [8, 2.5]])
    np.testing.assert_allclose(lines(heads, "no edit").get_ydata(), [3, 3])
    band = heads.collections[0].get_paths()[0].vertices
    for k, low, high in ((1, 1.8, 2.2), (2, 0.7, 1.3), (8, 0.1, 0.3)):
        at = band[np.isclose(band[:, 0], k), 1]
        assert (at.min(), at.max()) == pytest.approx((low, high))


def test_clusters_place_states_on_each_layers_principal_components():
    rng = np.random.default_rng(1)
    states = rng.normal(size=(60, 2, 8)).astype(np.float32)
    labels = np.arange(60) % 3
    names = ("anger", "fear", "joy")
    figure = figures.clusters(states, labels, names, (2, 5))
    assert [axes.get_title(loc="left").split(",")[0] for axes in figure.axes] == ["layer 2", "layer 5"]
    for k, axes in enumerate(figure.axes):
        points = PCA(n_components=2).fit_transform(states[:, k].astype(np.float64))
        for index, name in enumerate(names):
            shown = np.asarray(lines(axes, name).get_xydata())
            # the sign of a principal component is arbitrary
            np.testing.assert_allclose(np.abs(shown), np.abs(points[labels == index]), rtol=1e-5, atol=1e-8)


def test_clusters_thin_out_large_sets_by_seed():
    states = np.random.default_rng(0).normal(size=(3000, 1, 4)).astype(np.float32)
    labels = np.arange(3000) % 2
    counts = [
        sum(len(line.get_xdata()) for line in figures.clusters(states, labels, ("a", "b"), (0,), seed).axes[0].lines)
        for seed in (0, 1)
    ]
    assert counts == [1200, 1200]


def test_separation_draws_both_sites_chance_and_reference_layers():
    by_site = {"resid_attn": [0.2, 0.5], "resid_mlp": [0.3, 0.9]}
    (axes,) = figures.separation(by_site, 4, [1]).axes
    np.testing.assert_allclose(lines(axes, "after attention").get_xydata(), [[0, 20], [1, 50]])
    np.testing.assert_allclose(lines(axes, "after MLP").get_xydata(), [[0, 30], [1, 90]])
    np.testing.assert_allclose(lines(axes, "chance").get_ydata(), [25, 25])
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == (0.5, 1.0)


def test_influence_uses_one_symmetric_scale_for_both_panels():
    importance = {"attn": [[0.1, 0.2], [0.3, -2.0]], "mlp": [[1.0, 0.0], [0.5, 0.25]]}
    attention, mlp, _ = figures.influence(importance, ["anger", "fear"]).axes
    np.testing.assert_allclose(attention.collections[0].get_array(), importance["attn"])
    np.testing.assert_allclose(mlp.collections[0].get_array(), importance["mlp"])
    assert attention.collections[0].get_clim() == mlp.collections[0].get_clim() == (-2, 2)


def test_long_tail_draws_scores_over_relative_rank():
    scores = {"heads": {"anger": [3.0, 1.0, 0.0, -1.0]}, "neurons": {"anger": [2.0, 1.0]}}
    heads, neurons = figures.long_tail(scores).axes
    np.testing.assert_allclose(lines(heads, "anger").get_xydata(), [[0.125, 3], [0.375, 1], [0.625, 0], [0.875, -1]])
    np.testing.assert_allclose(lines(neurons, "anger").get_ydata(), [2, 1])


def test_circuit_map_marks_every_head_in_its_cell_and_counts_neurons():
    head_ids = {"anger": [[0, 1], [2, 3]], "fear": [[2, 3]], "joy": []}
    neurons = {"anger": [1, 0, 4], "fear": [2, 0, 3], "joy": [0, 0, 0]}
    left, right = figures.circuit_map(head_ids, neurons, layers=3, heads=4).axes
    for emotion, ids in head_ids.items():
        places = np.asarray(lines(left, emotion).get_xydata()).reshape(-1, 2)
        np.testing.assert_array_equal(np.rint(places[:, ::-1]), np.reshape(ids, (-1, 2)))
        assert (np.abs(places - np.rint(places)) < 0.45).all()
    shared = [tuple(np.asarray(lines(left, e).get_xydata())[-1]) for e in ("anger", "fear")]
    assert shared[0] != shared[1]
    widths = np.array([bar.get_width() for bar in right.patches]).reshape(3, 3)
    np.testing.assert_array_equal(widths, list(neurons.values()))


def test_colours_and_markers_tell_emotions_apart():
    assert len({to_hex(c) for c in colours(EMOTIONS).values()}) == 6
    assert len(set(markers(EMOTIONS).values())) == 6
    assert colours(["fear"])["fear"] == colours(EMOTIONS)["fear"]
    assert markers(["x"])["x"] == MARKERS[0]


def test_save_figure_writes_both_formats_with_equal_bytes_for_equal_figures(tmp_path):
    scores = {"heads": {"anger": [3.0, 1.0]}}
    paths = [figures.save_figure(figures.long_tail(scores), tmp_path / name, "tail") for name in ("a", "b")]
    (svg, png), (other, _) = paths
    assert svg == tmp_path / "a" / "tail.svg"
    assert svg.read_bytes() == other.read_bytes()
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["tail.png", "tail.svg"]


def test_figures_leave_matplotlibs_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert isinstance(styled(Figure)(), Figure)
    assert dict(matplotlib.rcParams) == before
