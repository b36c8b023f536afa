import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh

from emotrace.report import figures
from tests.report.test_figures import EMOTIONS, lines


def point(strength, accuracy, gap, best) -> dict:
    return {"strength": strength, "accuracy": accuracy, "gap": gap, "on_frontier": best}


def test_frontier_joins_an_arms_best_settings_and_marks_the_others():
    arms = {
        "prompting": {"points": [point(None, 1.0, 0.0, True)], "area": None},
        "circuit": {
            "points": [point(4.0, 0.95, -0.3, True), point(2.0, 0.7, 0.05, True), point(9.0, 0.5, 2.0, False)],
            "area": 0.8125,
        },
        "random_matched": {"points": [point(1.0, 0.1, -0.2, True), point(2.0, 0.2, None, False)], "area": None},
    }
    (axes,) = figures.frontier(arms, fluency_bar=0.1).axes
    np.testing.assert_allclose(lines(axes, "prompting").get_xydata(), [[0, 100]])
    circuit = lines(axes, "circuit, area 0.812")
    np.testing.assert_allclose(circuit.get_xydata(), [[0.05, 70], [-0.3, 95]])
    assert circuit.get_linestyle() == "-"
    np.testing.assert_allclose(lines(axes, "random matched").get_xydata(), [[-0.2, 10]])
    every = [np.asarray(line.get_xydata()).tolist() for line in axes.lines if line.get_linestyle() == "None"]
    assert [[-0.3, 95.0], [0.05, 70.0], [2.0, 50.0]] in every
    assert [[-0.2, 10.0]] in every  # the setting without a gap has no place
    assert axes.get_xscale() == "symlog"
    assert axes.xaxis.get_transform().linthresh == 0.1
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == (-0.1, pytest.approx(0.2))


def test_confusion_matrices_show_every_arms_row_shares():
    matrices = {
        name: {"rows": ["a", "b"], "columns": ["a", "b", "neutral"], "counts": counts}
        for name, counts in {
            "circuit": [[3, 1, 0], [0, 0, 0]],
            "random_matched": [[0, 0, 5], [0, 2, 0]],
            "residual": [[1, 0, 0], [0, 1, 0]],
            "unsteered": [[0, 0, 1], [0, 0, 4]],
        }.items()
    }
    figure = figures.confusion_matrices(matrices)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["circuit", "random matched", "residual", "unsteered"]
    for axes, matrix in zip(shown, matrices.values(), strict=True):
        mesh = next(c for c in axes.collections if isinstance(c, QuadMesh))
        counts = np.array(matrix["counts"], dtype=float)
        np.testing.assert_allclose(mesh.get_array(), counts / np.maximum(counts.sum(1, keepdims=True), 1))
        assert mesh.get_clim() == (0, 1)
        assert axes.yaxis_inverted()
    for axes in (shown[0], shown[3]):  # the first of each row
        assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
    for axes in shown[1:]:  # the last of each column
        assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "neutral"]
    assert [text.get_text() for text in shown[0].texts] == ["75", "25", "", "", "", ""]


def faithfulness(scale: float) -> dict:
    return {
        "shares": [0.01, 0.1, 0.5],
        "faithfulness": [0.3 * scale, 0.8 * scale, scale],
        "band": [[0.2, 0.4], [0.7, 0.9], [0.9, 1.1]],
        "random": [0.0, 0.1, 0.4],
        "random_band": [[-0.1, 0.1], [0, 0.2], [0.3, 0.5]],
        "circuit": {"share": 0.025, "faithfulness": 0.85, "ci": [0.8, 0.95]},
    }


def test_faithfulness_curves_draw_curves_bands_bounds_and_the_circuit():
    gone = {"shares": [0.01, 0.1, 0.5], "undefined": "m(M) and m(0) are too close"}
    zero, mean, resample = figures.faithfulness_curves(
        {"zero": faithfulness(1.0), "mean": faithfulness(0.5), "resample": gone}
    ).axes
    assert [axes.get_title(loc="left") for axes in (zero, mean, resample)] == ["Zero", "Mean", "Resample"]
    for axes, scale in ((zero, 1.0), (mean, 0.5)):
        best = lines(axes, "best components, 95 % band")
        np.testing.assert_allclose(best.get_xydata(), [[0.01, 0.3 * scale], [0.1, 0.8 * scale], [0.5, scale]])
        np.testing.assert_allclose(lines(axes, "random components, 95 % band").get_ydata(), [0, 0.1, 0.4])
        band = axes.collections[0].get_paths()[0].vertices
        at = band[np.isclose(band[:, 0], 0.1), 1]
        assert (at.min(), at.max()) == pytest.approx((0.7, 0.9))
        (star,) = axes.containers
        np.testing.assert_allclose(star.lines[0].get_xydata(), [[0.025, 0.85]])
        (bar,) = (c for c in star.lines[2] if isinstance(c, LineCollection))
        np.testing.assert_allclose(bar.get_segments()[0], [[0.025, 0.8], [0.025, 0.95]])
        assert axes.get_xscale() == "log"
        level = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
        assert level == [0, 1]
    assert [text.get_text() for text in resample.texts] == ["undefined"]
    assert resample.get_xlim() == zero.get_xlim()


def test_stability_bars_place_both_sites_side_by_side_with_their_intervals():
    rows = [
        {"source": source, "site": site, "jaccard": j, "jaccard_ci": [j - 0.1, j + 0.05], "rank": r, "rank_ci": None}
        for source, site, j, r in (
            ("scenarios", "heads", 0.8, 0.95),
            ("scenarios", "neurons", 0.6, 0.9),
            ("implied", "heads", 0.3, 0.4),
            ("implied", "neurons", 0.15, -0.2),
        )
    ]
    jaccard, rank = figures.stability_bars(rows).axes
    assert [text.get_text() for text in jaccard.get_yticklabels()] == ["scenarios", "implied"]
    for axes, key in ((jaccard, "jaccard"), (rank, "rank")):
        for site in ("heads", "neurons"):
            container = next(c for c in axes.containers if c.get_label() == site)
            shown = container.lines[0].get_xydata()
            np.testing.assert_allclose(shown[:, 0], [row[key] for row in rows if row["site"] == site])
            np.testing.assert_array_equal(np.rint(shown[:, 1]), [0, 1])
        widths = sorted(bar.get_width() for bar in axes.patches)
        np.testing.assert_allclose(widths, sorted(row[key] for row in rows))
    heads, neurons = (next(c for c in jaccard.containers if c.get_label() == s) for s in ("heads", "neurons"))
    assert (heads.lines[0].get_ydata() < neurons.lines[0].get_ydata()).all()
    (bars,) = heads.lines[2]
    np.testing.assert_allclose([s[:, 0] for s in bars.get_segments()], [[0.7, 0.85], [0.2, 0.35]])
    assert jaccard.get_xlim() == (0, 1)
    assert rank.get_xlim()[0] < -0.2


def test_specificity_matrix_is_signed_on_a_scale_of_its_own():
    matrix = [[2.0, -0.5], [0.25, 4.0]]
    axes, bar = figures.specificity_matrix(matrix, ["anger", "fear"], measure="points").axes
    mesh = next(c for c in axes.collections if isinstance(c, QuadMesh))
    np.testing.assert_allclose(mesh.get_array(), matrix)
    assert mesh.get_clim() == (-4, 4)
    assert [text.get_text() for text in axes.texts] == ["2", "−0.5", "0.25", "4"]
    assert axes.yaxis_inverted()
    assert (axes.get_ylabel(), axes.get_xlabel(), bar.get_ylabel()) == ("circuit driven", "emotion read", "points")


@pytest.mark.parametrize(("layers", "heads"), [(28, 24), (80, 64)])
def test_circuit_map_of_a_large_model_keeps_marks_in_their_cells_and_on_the_page(layers, heads):
    rng = np.random.default_rng(0)
    ids = {e: np.stack([rng.integers(0, layers, 30), rng.integers(0, heads, 30)], 1).tolist() for e in EMOTIONS}
    neurons = {e: rng.integers(0, 40, layers).tolist() for e in EMOTIONS}
    figure = figures.circuit_map(ids, neurons, layers, heads)
    left, right = figure.axes
    for e in EMOTIONS:
        places = np.asarray(lines(left, e).get_xydata())
        np.testing.assert_array_equal(np.rint(places[:, ::-1]), ids[e])
        assert lines(left, e).get_markersize() >= 3.5
    assert figure.get_figwidth() <= 10.5
    assert figure.get_figheight() <= 10.5
    widths = np.array([bar.get_width() for bar in right.patches]).reshape(6, layers)
    np.testing.assert_array_equal(widths, list(neurons.values()))


@pytest.mark.parametrize(("layers", "drawn_as_image"), [(28, False), (80, True)])
def test_influence_of_a_deep_model_has_no_lines_between_its_cells(layers, drawn_as_image):
    table = np.random.default_rng(0).normal(size=(6, layers))
    attention, mlp, _ = figures.influence({"attn": table.tolist(), "mlp": (-table).tolist()}, EMOTIONS).axes
    for axes, expected in ((attention, table), (mlp, -table)):
        (mesh,) = axes.collections
        np.testing.assert_allclose(mesh.get_array(), expected)
        assert bool(mesh.get_rasterized()) == drawn_as_image
        assert (mesh.get_linewidth()[0] == 0) == drawn_as_image
        assert len(axes.get_xticks()) <= 12


def test_long_tail_of_many_components_shows_both_ends():
    scores = np.sort(np.random.default_rng(0).standard_t(2, 5000))[::-1]
    (axes,) = figures.long_tail({"neurons": {"anger": scores.tolist()}}).axes
    assert axes.get_xscale() == "logit"
    low, high = axes.get_xlim()
    assert 0 < low < 0.5 / 5000
    assert 1 - 0.5 / 5000 < high < 1
    ends = axes.transAxes.inverted().transform(axes.transData.transform([[0.01, 0], [0.99, 0]]))[:, 0]
    assert ends[0] > 0.25  # a quarter of the panel for the first hundredth
    assert ends[1] < 0.75
