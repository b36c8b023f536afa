"""What the sections say in words: captions, tables, and what an older run folder lacks."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.figure import Figure

from emotrace.report import figures
from emotrace.report.blocks import Block, Cell, Drawing, Fold, Table, Text
from emotrace.report.loading import RunFiles, load_run
from emotrace.report.sections import control, depth, discovery, taken_for
from emotrace.report.sections.depth import chosen_layers
from tests.report.conftest import EMOTIONS, make_run_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run_folder(tmp_path_factory.mktemp("sections") / "demo")


@pytest.fixture(autouse=True)
def layers_mapped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """The maps of states that were asked for, which take long to draw."""
    asked: list[tuple[str, tuple[int, ...]]] = []

    def clusters(states: np.ndarray, labels: Any, emotions: Any, layers: Any, seed: int = 0, method: str = "pca"):
        assert states.shape[1] == len(layers)
        asked.append((method, tuple(layers)))
        return Figure()

    monkeypatch.setattr(figures, "clusters", clusters)
    return asked


def changed(folder: Path, stage: str, edit: Callable[[dict[str, Any]], Any]) -> RunFiles:
    summary = json.loads((folder / "summary.json").read_text())
    edit(summary[stage])
    return RunFiles(folder, summary, load_run(folder).manifest)


def built(section: Callable[..., tuple[Block, ...]], run: RunFiles) -> dict[str, Any]:
    """Drawings by name, tables and texts in order, folds opened."""
    found: dict[str, Any] = {"tables": [], "texts": []}

    def draw(figure: Figure, name: str, *, alt: str, caption: str) -> Drawing:
        return Drawing(name, Markup(""), 0, alt, caption)

    def take(blocks: tuple[Block, ...]) -> None:
        for block in blocks:
            if isinstance(block, Drawing):
                found[block.name] = block.caption.replace("\u00a0", " ")
            elif isinstance(block, Table):
                found["tables"].append(block)
            elif isinstance(block, Text):
                found["texts"].append(block)
            elif isinstance(block, Fold):
                take(block.blocks)

    take(section(run, draw))
    return found


def texts(table: Table) -> list[list[str]]:
    return [[(c.text if isinstance(c, Cell) else c).replace("\u00a0", " ") for c in row] for row in table.rows]


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 6, 8, 28, 80])
def test_chosen_layers_are_spread_and_hold_the_first_sharp_one(layers):
    for sharp in (None, *range(layers)):
        found = chosen_layers(range(layers), sharp)
        assert len(found) == min(5, layers)
        assert found == sorted(set(found))
        assert sharp is None or sharp in found
        if layers > 2:
            assert {0, layers - 1} <= set(found)
    assert chosen_layers((3, 9), 5) == [0, 1]  # a layer that no state was kept of


def test_states_are_mapped_by_both_methods_at_chosen_layers_and_at_all(folder, layers_mapped):
    run = load_run(folder)
    page = built(depth.directions, run)
    after_mlp = run.stage("directions")["separation"]["resid_mlp"]
    assert after_mlp[4] < 0.9 < after_mlp[5]
    assert layers_mapped == [
        ("pca", (0, 2, 4, 5, 7)),
        ("tsne", (0, 2, 4, 5, 7)),
        ("pca", tuple(range(8))),
        ("tsne", tuple(range(8))),
    ]
    assert "names 24 % at layer 0, 96 % at layer 5 and 100 % at layer 7 rightly" in page["clusters"]
    assert "mean nothing" in page["clusters_tsne"]
    assert "mean nothing" in page["clusters_tsne_all"]


def test_tsne_caption_counts_nearest_neighbours(folder):
    states = depth.load_states(load_run(folder))
    shares = []
    for layer in (0, 7):
        points = states.states[:, layer, 1].double().numpy()
        apart = np.linalg.norm(points[:, None] - points, axis=-1) + np.diag(np.full(len(points), np.inf))
        shares.append((states.label_index.numpy()[apart.argmin(1)] == states.label_index.numpy()).mean())
    caption = built(depth.directions, load_run(folder))["clusters_tsne"]
    assert f"{100 * shares[0]:.0f} % of them at layer 0 and {100 * shares[1]:.0f} % at layer 7" in caption


def test_directions_by_depth_in_words(folder):
    page = built(depth.directions, load_run(folder))
    # norms double with every layer, from 1; sigma after the MLP is 4
    assert "0.25 sigma long, after the last 32 (mean over emotions; longest after layer 7)" in page["direction_depth"]
    # cosines rise evenly from -0.2 to 0.94 over 8 layers, the same after both sublayers
    rising = np.linspace(-0.2, 0.94, 8)
    first = int(np.flatnonzero(rising >= 0.5)[0])
    assert f"reaches 0.5 first after the attention of layer {first}" in page["direction_depth"]
    said = page["depth_similarity"]
    assert "turns most between MLP of layer 1 and attention of layer 2 (cosine 0.1)" in said
    assert "First and last sublayer: 0.1." in said
    assert "disgust between MLP of layer 1 and attention of layer 2" in page["depth_similarity_by_emotion"]
    assert "fear between MLP of layer 4 and attention of layer 5 (0.1)" in page["depth_similarity_by_emotion"]


@pytest.mark.parametrize(("p", "said"), [(0.0125, "is better than chance"), (0.4236, "is not better than chance")])
def test_the_plane_of_affect_says_whether_it_beats_chance(folder, p, said):
    page = built(depth.directions, changed(folder, "directions", lambda d: d["affect"].update(p=p)))
    caption = page["affect"]
    assert f"The fit {said} labelings" in caption
    assert (
        f"disparity 0.32, 0.7 on average when ratings are handed to other emotions (p = {p:.2g}, 720 labelings)"
        in caption
    )
    assert "Six points are few" in caption
    assert "Nobody 1900" in caption


def test_no_plane_is_drawn_where_there_are_no_ratings(folder):
    page = built(depth.directions, changed(folder, "directions", lambda d: d.update(affect=None)))
    assert "affect" not in page
    assert not page["texts"]


def test_what_an_older_directions_stage_lacks_is_named_with_its_command(folder):
    def older(directions: dict[str, Any]) -> None:
        for key in ("alignment", "similarity", "sigma", "affect"):
            del directions[key]

    page = built(depth.directions, changed(folder, "directions", older))
    assert "direction_depth" not in page
    said = [text.text for text in page["texts"]]
    assert len(said) == 2
    assert all(f"emotrace run directions --model bundled --out {folder}" in text for text in said)
    assert {"clusters", "separation", "cosines"} <= set(page)


def test_curves_of_every_emotion_name_the_most_and_least_moved(folder):
    page = built(discovery.curves, load_run(folder))
    # the last emotion has the highest baseline, 4.2, and all end at 0.1
    assert page["ablate_heads_by_emotion"] == (
        "Zeroing the top 16 heads moves the reading of disgust (4.2 to 0.1) most and of anger (3.7 to 0.1) least; it "
        "moves it further than as many random heads in 6 of 6 emotions."
    )
    assert {f"{s}_{k}_by_emotion" for s in ("ablate", "enhance") for k in ("heads", "neurons")} <= set(page)


def test_frontier_names_the_largest_area_and_what_is_left_out(folder):
    caption = built(control.frontier, load_run(folder))["frontier"]
    assert caption.startswith(
        "Of the tuned arms, circuit has the largest area under its frontier, 0.875; random matched 0.0625. Without a "
        "strength: unsteered 0.014 and prompting 0.99."
    )
    assert "averaged over allowed gaps from 0 to 0.5 nats per token" in caption
    assert "1 setting without a fluency gap (no reply had a word) left out" in caption


def test_an_arm_without_an_area_does_not_win(folder):
    def none(part: dict[str, Any]) -> None:
        for arm in part["frontier"].values():
            arm["area"] = None

    assert "No tuned arm has an area" in built(control.frontier, changed(folder, "control", none))["frontier"]


def test_an_older_control_stage_names_what_it_lacks(folder):
    def older(part: dict[str, Any]) -> None:
        del part["frontier"], part["agreement"]
        for arm in part["arms"].values():
            del arm["off_target"], arm["anti_steerable"]

    run = changed(folder, "control", older)
    said = [text.text for section in (control.frontier, taken_for.confusion) for text in built(section, run)["texts"]]
    assert len(said) == 3
    assert all(f"emotrace run control --model bundled --out {folder}" in text for text in said)


def as_other(matrix: Mapping[str, Any]) -> float:
    counts = np.array(matrix["counts"])
    emotions = counts[:, : len(EMOTIONS)]
    return (emotions.sum() - np.trace(emotions)) / counts.sum()


def test_leaks_into_other_emotions_are_counted_per_arm(folder):
    def leak(part: dict[str, Any]) -> None:
        part["confusion"]["random_direction"]["counts"][0] = [0, 0, 0, 30, 0, 0, 30, 0, 0]
        part["confusion"]["circuit"]["counts"][1] = [6, 54, 0, 0, 0, 0, 0, 0, 0]

    run = changed(folder, "control", leak)
    shares = {name: as_other(matrix) for name, matrix in run.stage("control")["confusion"].items()}
    assert {name for name, share in shares.items() if share} == {"random_direction", "circuit"}
    caption = built(taken_for.confusion, run)["confusions"]
    told = [f"{name.replace('_', ' ')} {100 * shares[name]:.1f} %" for name in ("random_direction", "circuit")]
    assert caption == (
        f"Replies judged as another emotion than was asked for: {' and '.join(told)}; none of the other 7 arms."
    )
    calm = built(taken_for.confusion, load_run(folder))["confusions"]
    assert calm == "No arm's replies are judged as another emotion than was asked for."


def test_leaks_wrong_ways_and_agreement_are_in_tables(folder):
    run = load_run(folder)
    leaks, agreement, by_arm = built(taken_for.confusion, run)["tables"][:3]
    rows = {row[0]: row[1:] for row in texts(leaks)}
    arms = run.stage("control")["arms"]
    assert list(rows) == [re.sub("_", " ", name) for name in arms]
    share = f"{100 * arms['circuit']['off_target']['share']:.1f} %"
    assert rows["circuit"] == [share, "[0.0, 100.0]", "anger as fear (25 %)", "5.0 %", "[2.0, 9.0]", "50.0 %"]
    assert rows["unsteered"][3:] == ["–", "–", "–"]
    assert texts(agreement) == [
        ["all judges", "Krippendorff's alpha", "0.912", "[0.880, 0.940]", "–", "3,240"],
        ["bundled, structure", "Cohen's kappa", "0.875", "[0.800, 0.900]", "93.1 %", "3,100"],
    ]
    assert "3,240 replies of 60 scenarios" in agreement.caption
    assert by_arm.head == ("arm", "structure", "bundled", "alpha", "95 % interval")
    assert texts(by_arm)[3] == ["circuit", "49.7 %", "99.4 %", "–", "–"]


def test_judges_that_were_not_compared_are_not_called_missing(folder):
    run = changed(folder, "control", lambda part: part.update(agreement=None))
    assert [text.text for text in built(taken_for.confusion, run)["texts"]] == [
        "Judges were not compared in this run: only one of them could judge these replies."
    ]
