"""A run folder as the runner leaves it, with made-up but realistic numbers (8 layers, 6 emotions, 9 arms)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotrace.steps.separation import States

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
    }


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
        "by_emotion": {e: {"top": top, "random": rnd} for e in EMOTIONS},
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
        "settings": {"max_new_tokens": 40, "tokens": "reply", "validation_replies": 144},
    }, records


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """runs/demo as a finished ``paper`` run leaves it."""
    return make_run_folder(tmp_path / "demo")


def make_run_folder(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    elicited, elicit_records = elicit(rng)
    steered, control_records = control(rng)
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
    for stage, records in (("elicit", elicit_records), ("control", control_records)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "stages" / stage / "replies.jsonl").write_text(lines, encoding="utf-8")
    centres = rng.normal(0, 1, (6, 16))
    index = np.arange(240) % 6
    depth = np.array([0.2, 1.0, 2.0, 4.0])
    states = rng.normal(0, 1, (240, 4, 16)) + depth[None, :, None] * centres[index][:, None]
    both = np.stack([np.zeros_like(states), states], 2)
    kept = States(
        tuple(EMOTIONS),
        (0, 2, 4, 7),
        torch.tensor(both, dtype=torch.float32),
        torch.tensor(index),
        tuple(f"scenario-{row // 6}" for row in range(240)),
    )
    kept.save(folder / "stages" / "directions" / "states.safetensors")
    return folder


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
