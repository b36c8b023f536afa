"""Overlap by role across training seeds, on made-up scores and on the bundled model twice."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import emotrace as et
from benchmarks import record, seeds
from emotrace.models.bundled.training import Recipe


def scores(seed: int) -> et.Scores:
    """All positive scores sit in layer 1's heads and in layer 2's neurons, on components that the seed shuffles."""
    heads, neurons = torch.zeros(2, 3, 8, dtype=torch.float64), torch.zeros(2, 3, 50, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    heads[:, 1, torch.randperm(8, generator=generator)[:2]] = 1.0
    neurons[:, 2, torch.randperm(50, generator=generator)[:5]] = 2.0
    neurons[:, 0] = -1.0
    return et.Scores(("joy", "awe"), "analytic", heads, neurons)


def test_roles_overlap_where_indices_do_not():
    one, other = seeds.profile(scores(0)), seeds.profile(scores(1))
    assert one[:, 0].tolist() == [0, 1, 0]
    assert one[:, 1].tolist() == [0, 0, 1]
    assert seeds.overlap(one, other) == pytest.approx(1)
    assert seeds.overlap(one, np.full((3, 2), 1 / 3)) == pytest.approx(1 / 3)
    assert seeds.overlap(one, one[:, ::-1]) == 0
    held = [{e: set(s.top("heads", e, 2)) for e in s.emotions} for s in (scores(0), scores(1))]
    assert seeds.jaccard(held[0], held[0]) == 1
    assert seeds.jaccard(*held) < 1


def test_a_training_counts_when_recipe_and_stages_are_all_there(tmp_path: Path):
    recipe = Recipe(seed=5)
    assert not seeds.finished(recipe, tmp_path)
    made = {"recipe": asdict(recipe), "stages": [{}] * len(recipe.stages)}
    (tmp_path / "training.json").write_text(json.dumps(made))
    assert seeds.finished(recipe, tmp_path)
    assert not seeds.finished(Recipe(seed=6), tmp_path)
    (tmp_path / "training.json").write_text(json.dumps(made | {"stages": [{}]}))
    assert not seeds.finished(recipe, tmp_path)


@pytest.mark.slow
def test_the_same_model_twice_agrees_in_everything(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    seeds.main({1: et.BUNDLED, 2: et.BUNDLED}, scenarios=2, tested=3, draws=2)
    each, pairs = list(json.loads((tmp_path / "seeds.json").read_text()).values())[-2:]
    assert {k: v for k, v in each[0].items() if k != "seed"} == {k: v for k, v in each[1].items() if k != "seed"}
    assert each[0]["f without the circuit"] < each[0]["without random"]
    assert pairs[0]["role profile, overlap"] == pytest.approx(1)
    assert pairs[0]["heads in common by index (Jaccard)"] == 1
