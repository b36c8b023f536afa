"""The model card, written from measured figures: ``card.json`` for programs, ``CARD.md`` for people."""

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import safe_open

from emotrace.models.bundled.corpus import MIXTURE


def write_card(folder: Path, figures: dict[str, Any]) -> None:
    """Write ``card.json`` and ``CARD.md`` to ``folder``, which holds the weights and ``training.json``."""
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    measured = {key: _without_problems(value) for key, value in figures.items()}
    (folder / "card.json").write_text(json.dumps({**training, "measured": measured}, indent=1) + "\n", encoding="utf-8")
    (folder / "CARD.md").write_text(_text(folder, training, measured), encoding="utf-8")


def _without_problems(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_problems(entry) for key, entry in value.items() if key != "problems"}
    return value


def _parameters(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", framework="np") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def _text(folder: Path, training: dict[str, Any], measured: dict[str, Any]) -> str:
    recipe = training["recipe"]
    size = (folder / "model.safetensors").stat().st_size
    rows = {
        "named instruction": measured["named"],
        "no instruction (neutral)": measured["neutral"],
        **{f"held-out wording: {kind}": row for kind, row in measured["held_out"].items()},
    }
    table = "\n".join(
        f"| {name} | {row['n']} | {row['accuracy']:.1%} | {row['structure_accepted']:.1%} | {row['distinct']:.1%} |"
        for name, row in rows.items()
    )
    layers = range(len(next(iter(measured["depth"].values()))))
    template = (resources.files("emotrace.models.bundled") / "tables" / "card.md").read_text(encoding="utf-8")
    return template.format(
        **{
            key: recipe[key]
            for key in (
                "layers",
                "heads",
                "kv_heads",
                "head_dim",
                "width",
                "mlp",
                "seed",
                "batch",
                "head_penalty",
                "neuron_penalty",
                "funnel",
            )
        },
        steps=" + ".join(str(stage["steps"]) for stage in recipe["stages"]),
        pseudo=", ".join(f"{stage['pseudo']:.0%}" for stage in recipe["stages"]),
        vocabulary=recipe["vocabulary"],
        all_heads=recipe["layers"] * recipe["heads"],
        all_neurons=recipe["layers"] * recipe["mlp"],
        parameters=_parameters(folder),
        megabytes=size / 1e6,
        tokens=training["tokens"],
        minutes=training["seconds"] / 60,
        mixture=", ".join(f"`{kind}` {share:.0%}" for kind, share in MIXTURE.items()),
        rows=table,
        by_emotion=", ".join(f"{label} {value:.1%}" for label, value in measured["named"]["by_emotion"].items()),
        train_loss=measured["loss"]["train"],
        test_loss=measured["loss"]["test"],
        columns=" | ".join(f"{layer}" for layer in layers),
        dashes="---|" * len(layers),
        depth="\n".join(
            f"| {kind} | " + " | ".join(f"{value:.2f}" for value in row) + " |"
            for kind, row in measured["depth"].items()
        ),
    )
