"""A run folder as the runner leaves it, with made-up but realistic numbers (8 layers, 6 emotions, 9 arms)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotrace.steps.separation import States
from tests.report.evidence import quality, stability

EMOTIONS = ("anger", "sadness", "happiness", "fear", "surprise", "disgust")
ARMS = {
    "unsteered": 0.02,
    "prompting": 0.996,
    "residual": 0.955,
    "circuit": 0.994,
    "random_matched": 0.031,
    "random_matched_rescaled": 0.12,
    "random_anywhere": 0.04,
    "random_direction": 0.18,
    "wrong_emotion": 0.005,
}
LAYERS, HEADS, WIDTH, SCENARIOS = 8, 8, 512, 60
HOSTILE = "<script>alert('x')</script> & \"quoted\""


def elicit(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    records = []
    for group in range(40):
        for condition in (*EMOTIONS, "neutral"):
            accepted = bool(rng.random() > 0.01) and not (group == 3 and condition == "fear")
            records.append(
                {
                    "group_id": f"s{group:03d}-positive",
                    "skeleton_id": f"s{group:03d}",
                    "valence": "positive",
                    "condition": condition,
                    "reply": f"A reply in {condition} number {group}.",
                    "label": condition if accepted else "neutral",
                    "accepted": accepted,
                    "structure": True,
                    "scenario": f"You wait at stop {group}.",
                    "event": "The bus comes early.",
                }
            )
    dropped = len({r["group_id"] for r in records if not r["accepted"]})
    return {
        "groups": 40,
        "accepted_groups": 40 - dropped,
        "dropped_groups": dropped,
        "acceptance": {
            c: float(np.mean([r["accepted"] for r in records if r["condition"] == c])) for c in (*EMOTIONS, "neutral")
        },
        "structure_accepted": 0.985,
        "distinct_replies": 263,
        "replies": len(records),
    }, records


def directions() -> dict[str, Any]:
    cosines = np.full((6, 6), -0.2) + 1.2 * np.eye(6)
    return {
        "emotions": list(EMOTIONS),
        "layers": LAYERS,
        "separation": {
            "resid_attn": [0.2, 0.3, 0.45, 0.6, 0.8, 0.93, 0.98, 0.99],
            "resid_mlp": [0.24, 0.37, 0.52, 0.71, 0.88, 0.96, 0.99, 1.0],
        },
        "cosines": cosines.tolist(),
        "reference_layers": [5, 6],
        "norms": {site: (np.ones((6, 1)) * 2.0 ** np.arange(LAYERS)).tolist() for site in ("attn", "mlp")},
        "sigma": {"attn": [2.0] * LAYERS, "mlp": [4.0] * LAYERS},
        "alignment": {site: np.tile(np.linspace(-0.2, 0.94, LAYERS), (6, 1)).tolist() for site in ("attn", "mlp")},
        "similarity": {"mean": similarity(0), "by_emotion": {e: similarity(i) for i, e in enumerate(EMOTIONS)}},
        "affect": {
            "emotions": list(EMOTIONS),
            "points": [[0.1 * i - 0.2, 0.3 - 0.1 * i] for i in range(6)],
            "ratings": [[0.1 * i - 0.25, 0.35 - 0.1 * i] for i in range(6)],
            "source": "Nobody 1900",
            "explained": 0.61,
            "disparity": 0.32,
            "chance_disparity": 0.7,
            "correlations": {"valence": 0.8, "arousal": 0.75},
            "p": 0.0125,
            "labelings": 720,
        },
    }


def similarity(turn: int) -> list[list[float]]:
    """Directions alike within the layers before ``2 + turn`` and after, and not between."""
    place = np.arange(2 * LAYERS) // 2 >= 2 + turn % 5
    return np.where(place[:, None] == place, 1.0, 0.1).tolist()


def components(rng: np.random.Generator) -> dict[str, Any]:
    def falling(n: int) -> list[float]:
        return sorted((rng.standard_t(1.8, n) * 0.05).tolist(), reverse=True)

    return {
        "heads": LAYERS * HEADS,
        "neurons": LAYERS * WIDTH,
        "top_heads": {e: [[6 - i % 3, (i * 3) % HEADS, 1.4 / (i + 1)] for i in range(20)] for e in EMOTIONS},
        "top_neurons": {e: [[7 - i % 3, (i * 37) % WIDTH, 0.9 / (i + 1)] for i in range(20)] for e in EMOTIONS},
        "long_tail": {"heads": {e: falling(64) for e in EMOTIONS}, "neurons": {e: falling(400) for e in EMOTIONS}},
        "causal_agreement": {"heads": 2.1e-6, "neurons": 1.4e-6},
    }


def curve(ks: list[int], top: list[float], rnd: list[float], baseline: float) -> dict[str, Any]:
    return {
        "k": ks,
        "top": top,
        "top_band": [[v - 0.12, v + 0.12] for v in top],
        "random": rnd,
        "random_band": [[v - 0.2, v + 0.2] for v in rnd],
        "baseline": baseline,
        "measure": "h_final · v_ref at the last token",
        "by_emotion": {e: {"top": top, "random": rnd, "baseline": baseline + 0.1 * i} for i, e in enumerate(EMOTIONS)},
    }


def control(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    arms: dict[str, Any] = {}
    confusion: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    columns = [*EMOTIONS, "neutral", "incoherent", "abstain"]
    for arm, share in ARMS.items():
        draws = 10 if arm.startswith("random") else 1
        counts = np.zeros((6, 9), dtype=int)
        mine = []
        for scenario in range(SCENARIOS):
            for i, emotion in enumerate(EMOTIONS):
                right = rng.random() < share
                label = emotion if right else ("neutral" if rng.random() < 0.9 else "abstain")
                if arm == "unsteered":
                    label = "neutral"
                counts[i, columns.index(label)] += 1
                hostile = arm == "circuit" and scenario == 0 and emotion == "anger"
                said = f"Scene {scenario} leaves me with {label}. I turn the day over and nothing about it helps."
                mine.append(
                    {
                        "arm": arm,
                        "draw": scenario % draws,
                        "group_id": f"t{scenario:03d}-negative",
                        "skeleton_id": f"t{scenario:03d}",
                        "valence": ("positive", "neutral", "negative")[scenario % 3],
                        "emotion": emotion,
                        "reply": HOSTILE if hostile else said,
                        "label": label,
                        "structure": True,
                        "nll": 1.2,
                        "scenario": f"The oven in flat {scenario} is on.",
                        "event": "Smoke fills the kitchen.",
                    }
                )
        accuracy = float(np.trace(counts[:, :6]) / counts.sum())
        arms[arm] = {
            "accuracy": accuracy,
            "accuracy_ci": [max(accuracy - 0.012, 0.0), min(accuracy + 0.004, 1.0)],
            "by_emotion": {
                e: {"accuracy": counts[i, i] / 60, "accuracy_ci": [max(counts[i, i] / 60 - 0.03, 0), 1.0], "n": 60}
                for i, e in enumerate(EMOTIONS)
            },
            "by_valence": {v: {"accuracy": accuracy, "accuracy_ci": [0.0, 1.0], "n": 120} for v in ("positive",)},
            "fluency_gap_nats": 0.02 if arm != "random_direction" else 0.34,
            "structure_accepted": 0.98,
            "n": 360,
            "repetition": 0.01,
            "distinct_2": 0.7,
            "nonwords": 0.001,
            "length": 14.2,
            "stopped": 1.0,
            "abstained": float(counts[:, 8].sum() / 360),
            "incoherent": 0.0,
            "description": f"what {arm} does",
            "strength": 1.5 if arm not in ("unsteered", "prompting") else None,
            "draws": draws,
        }
        confusion[arm] = {"rows": list(EMOTIONS), "columns": columns, "counts": counts.tolist()}
        records += mine
        arms[arm] |= {
            "off_target": {
                "share": 1 - accuracy,
                "share_ci": [0.0, 1.0],
                "most_frequent": {e: {"label": "fear", "share": 0.25} if e == "anger" else None for e in EMOTIONS},
            },
            "anti_steerable": None
            if arm == "unsteered"
            else {"share": 0.05, "share_ci": [0.02, 0.09], "ties": 0.5, "n": 9},
        }
    arms["wrong_emotion"]["as_other"] = 0.98
    return {
        "arms": arms,
        "confusion": confusion,
        "paired": {
            "circuit_minus_random_matched_rescaled": {"difference": 0.874, "ci": [0.84, 0.9], "p": 1e-5},
        },
        "tuning": [
            {"arm": "circuit", "strength": s, "accuracy": a, "fluency_gap_nats": g, "chosen": s == 1.5}
            for s, a, g in ((1.0, 0.91, 0.01), (1.5, 0.99, 0.03), (2.0, 0.99, 0.2))
        ],
        "frontier": frontier(),
        "agreement": {
            "alpha": {"estimate": 0.912, "ci": [0.88, 0.94], "method": "bootstrap"},
            "kappa": {"bundled, structure": {"estimate": 0.875, "ci": [0.8, 0.9], "method": "bootstrap"}},
            "same": {"bundled, structure": 0.931},
            "compared": {"bundled, structure": 3100},
            "abstained": {"bundled": 0.01, "structure": 0.02},
            "n": 3240,
            "scenarios": 60,
            "judges": ["structure", "bundled"],
            "accuracy": {"bundled": 0.4, "structure": 0.39},
            "by_arm": {
                arm: {"alpha": None, "accuracy": {"bundled": share, "structure": share / 2}}
                for arm, share in ARMS.items()
            },
        },
        "settings": {"frontier_limit_nats": 0.5, "max_new_tokens": 40, "tokens": "reply", "validation_replies": 144},
    }, records


def frontier() -> dict[str, Any]:
    """Settings of two tuned arms (one without a fluency gap) and two arms that have no strength."""

    def point(strength: float | None, accuracy: float, gap: float | None, best: bool) -> dict[str, Any]:
        return {"strength": strength, "accuracy": accuracy, "gap": gap, "on_frontier": best}

    return {
        "unsteered": {"points": [point(None, 0.02, 0.15, True)], "area": 0.014},
        "prompting": {"points": [point(None, 0.99, 0.0, True)], "area": 0.99},
        "circuit": {
            "points": [point(1.0, 0.7, 0.02, True), point(2.0, 0.95, 0.1, True), point(4.0, 0.9, 0.6, False)],
            "area": 0.875,
        },
        "random_matched": {"points": [point(1.0, 0.1, 0.2, True), point(9.0, 0.0, None, False)], "area": 0.0625},
    }


def explore() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two sizes at three strengths: the larger and stronger, the more of four scenarios speak of the emotion."""
    budgets = [{"share": 0.5, "heads": 1, "neurons": 30}, {"share": 1.0, "heads": 3, "neurons": 60}]
    strengths = [0.0, 1.0, 4.0]
    shares = [[0.0, 0.25, 0.5], [0.0, 0.75, 1.0]]
    records: list[dict[str, Any]] = []
    for e, emotion in enumerate(EMOTIONS):
        for scenario in range(4):
            for b, row in enumerate(shares):
                for strength, share in zip(strengths, row, strict=True):
                    if not strength and b:
                        continue
                    right = scenario < 4 * share
                    said = f"I wait, and {'nothing happens' if not right else f'{emotion} rises in me, budget {b}'}."
                    hostile = (e, scenario, b, strength) == (0, 0, 1, 4.0)
                    records.append(
                        {
                            "emotion": emotion,
                            "budget": b if strength else None,
                            "strength": strength,
                            "group_id": f"v{scenario:03d}-neutral",
                            "skeleton_id": f"v{scenario:03d}",
                            "scenario": f"You wait at gate {scenario}.",
                            "event": "The flight is called.",
                            "reply": HOSTILE if hostile else said,
                            "label": emotion if right else "neutral",
                            "score": 0.9 if right else 0.1,
                        }
                    )
    return {
        "emotions": list(EMOTIONS),
        "budgets": budgets,
        "strengths": strengths,
        "chosen": {"budget": 1, "strength": 1},
        "components": {
            emotion: [
                {
                    "heads": [[6 - i, (e + i) % HEADS, 1.5 - 0.25 * i] for i in range(budget["heads"])],
                    "neurons": [[7 - i % 3, 8 * i + e, 0.9 / (i + 1)] for i in range(budget["neurons"])],
                }
                for budget in budgets
            ]
            for e, emotion in enumerate(EMOTIONS)
        },
        "accuracy": dict.fromkeys(EMOTIONS, shares),
        "accuracy_ci": {e: [[[max(v - 0.2, 0.0), min(v + 0.2, 1.0)] for v in row] for row in shares] for e in EMOTIONS},
        "fluency_gap_nats": {e: [[0.15, 0.02, -0.03 * i], [0.15, 0.01, None]] for i, e in enumerate(EMOTIONS)},
        "scenarios": 4,
        "layers": LAYERS,
        "heads_per_layer": HEADS,
    }, records


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """runs/demo as a finished ``paper`` run leaves it."""
    return make_run_folder(tmp_path / "demo")


def make_run_folder(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    elicited, elicit_records = elicit(rng)
    steered, control_records = control(rng)
    explored, explore_records = explore()
    heads_ids = {e: [[6, i], [5, (i + 2) % 8], [4, 1]] for i, e in enumerate(EMOTIONS)}
    summary: dict[str, Any] = {
        "elicit": elicited,
        "directions": directions(),
        "components": components(rng),
        "ablate": {
            "curves": {
                "heads": curve([1, 2, 4, 8, 16], [3.0, 2.2, 1.1, 0.4, 0.1], [3.6, 3.55, 3.5, 3.3, 2.9], 3.7),
                "neurons": curve([4, 16, 64, 256], [3.1, 2.0, 0.9, 0.2], [3.7, 3.65, 3.5, 3.2], 3.7),
            }
        },
        "enhance": {
            "curves": {
                "heads": curve([1, 2, 4, 8, 16], [0.8, 1.6, 2.3, 3.1, 3.6], [0.0, 0.1, 0.1, 0.2, 0.4], 0.0),
                "neurons": curve([4, 16, 64, 256], [0.7, 1.9, 2.8, 3.9], [0.0, 0.1, 0.15, 0.5], 0.0),
            }
        },
        "influence": {
            "emotions": list(EMOTIONS),
            "importance": {
                site: (np.linspace(0, 1, LAYERS) ** 2 + rng.normal(0, 0.08, (6, LAYERS))).tolist()
                for site in ("attn", "mlp")
            },
            "reference_layers": [5, 6],
            "alphas": [0.1, 0.3, 0.5, 0.7],
            "agreement_gradient": 0.97,
        },
        "circuit": {
            "heads": dict.fromkeys(EMOTIONS, 3),
            "neurons": dict.fromkeys(EMOTIONS, 120),
            "heads_share": 3 / 64,
            "neurons_share": 120 / 4096,
            "union_share": 0.172,
            "union": {"heads": 0.172, "neurons": 0.11},
            "heads_by_layer": {e: [0, 0, 0, 0, 1, 1, 1, 0] for e in EMOTIONS},
            "neurons_by_layer": {e: [0, 2, 8, 10, 20, 25, 25, 30] for e in EMOTIONS},
            "head_ids": heads_ids,
            "overlap": (0.1 * np.ones((6, 6)) + 0.9 * np.eye(6)).tolist(),
        },
        "control": steered,
        "explore": explored,
        "quality": quality(EMOTIONS),
        "stability": stability(EMOTIONS),
        "paper": {},
        "seconds": 171.4,
    }
    _json(folder / "summary.json", summary)
    _json(
        folder / "manifest.json",
        {
            "asked": "paper",
            "versions": {"python": "3.11.2", "torch": "2.13.0", "nnsight": "0.8.1"},
            "machine": {"system": "Linux", "processor": "x86_64", "threads": 2, "accelerators": []},
            "model": {"name": "bundled", "key": "ab12", "fingerprint": {"sizes": {"layers": 8}}},
            "data": {"name": "sev-mini", "sha256": "cd34", "scenarios": {"train": 240, "validation": 48, "test": 60}},
            "concepts": {"name": "paper-six", "labels": list(EMOTIONS)},
            "judge": "ef56",
            "seed": 0,
            "batch_tokens": 4096,
            "stages": {
                name: {
                    "key": "0123abcd",
                    "parameters": {"ks": [1, 2, 4, 8, 16], "controls": 10} if name == "ablate" else {},
                    "seconds": 12.5,
                    "computed": 3,
                    "counters": {"tokens": 120000},
                }
                for name in ("elicit", "ablate", "control")
            },
            "seconds": 171.4,
            "counters": {"tokens": 360000},
        },
    )
    for stage, value in summary.items():
        if isinstance(value, dict):
            _json(folder / "stages" / stage / "result.json", value)
    for stage, records in (("elicit", elicit_records), ("control", control_records), ("explore", explore_records)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "stages" / stage / "replies.jsonl").write_text(lines, encoding="utf-8")
    centres = rng.normal(0, 1, (6, 16))
    index = np.arange(60) % 6
    depth = np.linspace(0.2, 4.0, LAYERS)
    states = rng.normal(0, 1, (60, LAYERS, 16)) + depth[None, :, None] * centres[index][:, None]
    both = np.stack([np.zeros_like(states), states], 2)
    kept = States(
        tuple(EMOTIONS),
        tuple(range(LAYERS)),
        torch.tensor(both, dtype=torch.float32),
        torch.tensor(index),
        tuple(f"scenario-{row // 6}" for row in range(60)),
    )
    kept.save(folder / "stages" / "directions" / "states.safetensors")
    return folder


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
