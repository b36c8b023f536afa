"""Evaluate the bundled model on sev-mini's test split: ``python -m emotrace.models.bundled.evaluate``.

Greedy replies come from plain ``transformers`` generation with left padding and are read by the grammar's own parser.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from emotrace.data.concepts import NEUTRAL, PAPER_SIX
from emotrace.data.prompts import Prompt, prompt, render
from emotrace.data.sev import Group, groups, load_sev
from emotrace.models.bundled import WEIGHTS
from emotrace.models.bundled.corpus import draw_sample
from emotrace.models.bundled.instructions import held_out_instructions
from emotrace.models.bundled.reading import read_reply
from emotrace.models.bundled.training import Recipe, encode, loss_of, stack


@dataclass(frozen=True)
class Asked:
    """A group, what it was asked for, and the rendered prompt."""

    group: Group
    label: str
    text: str


def ask(tokenizer: Any, group: Group, label: str, instruction: str | None = None) -> Asked:
    """The rendered prompt of ``group`` for ``label`` (an emotion or neutral)."""
    built: Prompt = prompt(group, label, PAPER_SIX, instruction=instruction)
    return Asked(group, label, render(tokenizer, built.messages))


def load(folder: Path = WEIGHTS) -> tuple[Any, Any]:
    """Model (float32, eval) and tokenizer from ``folder``, without a network."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), tokenizer


@torch.no_grad()
def greedy(model: Any, tokenizer: Any, texts: Sequence[str], *, batch: int = 80, new_tokens: int = 64) -> list[str]:
    """Greedy replies to rendered prompts, in order."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    replies = [""] * len(texts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer([texts[i] for i in rows], add_special_tokens=False, padding=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        out = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        for i, ids in zip(rows, out[:, inputs["input_ids"].shape[1] :], strict=True):
            replies[i] = tokenizer.decode(ids, skip_special_tokens=True)
    return replies


def score(asked: Sequence[Asked], replies: Sequence[str]) -> dict[str, Any]:
    """Shares judged as asked, in all and by label; structural acceptance; distinct replies; share per valence."""
    readings = [
        read_reply(reply, a.group.scenario.scenario, a.group.event) for a, reply in zip(asked, replies, strict=True)
    ]
    hits = [reading.label == a.label for a, reading in zip(asked, readings, strict=True)]

    def share(of: Sequence[bool], keep: Sequence[bool]) -> float:
        return sum(v for v, k in zip(of, keep, strict=True) if k) / max(sum(keep), 1)

    accepted = [not reading.problems for reading in readings]
    labels = sorted({a.label for a in asked})
    return {
        "n": len(asked),
        "accuracy": sum(hits) / len(hits),
        "by_emotion": {label: share(hits, [a.label == label for a in asked]) for label in labels},
        "structure_accepted": sum(accepted) / len(accepted),
        "accepted_by_emotion": {label: share(accepted, [a.label == label for a in asked]) for label in labels},
        "distinct": len(set(replies)) / len(replies),
        "problems": [
            {"asked": a.label, "read": r.label, "reply": reply, "problems": list(r.problems), "group": a.group.id}
            for a, r, reply in zip(asked, readings, replies, strict=True)
            if r.problems or r.label != a.label
        ],
    }


@torch.no_grad()
def last_states(model: Any, tokenizer: Any, texts: Sequence[str], batch: int = 80) -> torch.Tensor:
    """Residual stream at the last prompt token after the embedding and after each layer, ``[N, L + 1, D]``."""
    found = []
    for start in range(0, len(texts), batch):
        inputs = tokenizer(
            list(texts[start : start + batch]), add_special_tokens=False, padding=True, return_tensors="pt"
        )
        inputs.pop("token_type_ids", None)
        states = model(**inputs, output_hidden_states=True).hidden_states
        found.append(torch.stack([state[:, -1] for state in states], dim=1))
    return torch.cat(found)


def separability(fit: torch.Tensor, fit_labels: list[str], test: torch.Tensor, test_labels: list[str]) -> list[float]:
    """Share of ``test`` ``[N, L + 1, D]`` whose nearest class mean of ``fit`` is its own, per layer."""
    names = sorted(set(fit_labels))
    means = torch.stack([fit[[label == name for label in fit_labels]].mean(0) for name in names])
    nearest = torch.cdist(test.transpose(0, 1), means.transpose(0, 1)).argmin(-1)
    truth = torch.tensor([names.index(label) for label in test_labels])
    return [float((row == truth).float().mean()) for row in nearest]


@torch.no_grad()
def held_out_loss(model: Any, tokenizer: Any, split: str = "test", n: int = 600, seed: int = 5) -> float:
    """Nats per reply token (end of turn included) on corpus texts of ``split``, all kinds of prompts but ``begun``."""
    rng = random.Random(seed)
    samples = [s for s in (draw_sample(rng, tokenizer, split) for _ in range(n)) if not s.opening]
    total = weight = 0.0
    for row in encode(tokenizer, samples, Recipe(prompt_weight=0.0, funnel=0.0), rng):
        total += float(loss_of(model, stack([row], tokenizer.pad_token_id))) * sum(row.weights)
        weight += sum(row.weights)
    return total / weight


def evaluate(folder: Path = WEIGHTS, *, limit: int | None = None) -> dict[str, Any]:
    """All figures of the card; ``limit`` keeps only so many test groups."""
    began = time.time()
    model, tokenizer = load(folder)
    data = load_sev("sev-mini")
    test = groups(data.test)[:limit]
    named = [ask(tokenizer, group, label) for group in test for label in PAPER_SIX.labels]
    neutral = [ask(tokenizer, group, NEUTRAL) for group in test]
    figures: dict[str, Any] = {
        "named": score(named, greedy(model, tokenizer, [a.text for a in named])),
        "neutral": score(neutral, greedy(model, tokenizer, [a.text for a in neutral])),
        "held_out": {},
        "loss": {split: held_out_loss(model, tokenizer, split) for split in ("train", "test")},
    }
    print(f"{time.time() - began:.0f} s: named and neutral prompts done", flush=True)
    depth_texts = {"named": [a for a in named if a.group.valence == "neutral"]}
    for kind, wordings in held_out_instructions().items():
        asked = [
            ask(tokenizer, test[(7 * i + 31 * e) % len(test)], label, wordings[label][i % len(wordings[label])])
            for e, label in enumerate(PAPER_SIX.labels)
            for i in range(min(40, len(test)))
        ]
        figures["held_out"][kind] = score(asked, greedy(model, tokenizer, [a.text for a in asked]))
        depth_texts[kind] = asked
        print(f"{time.time() - began:.0f} s: held-out wordings, {kind}, done", flush=True)
    fit = [ask(tokenizer, g, label) for g in groups(data.validation)[::3] for label in PAPER_SIX.labels]
    fit_states = last_states(model, tokenizer, [a.text for a in fit])
    figures["depth"] = {
        kind: separability(
            fit_states,
            [a.label for a in fit],
            last_states(model, tokenizer, [a.text for a in asked]),
            [a.label for a in asked],
        )
        for kind, asked in depth_texts.items()
    }
    figures["seconds"] = time.time() - began
    return figures


def summary(figures: dict[str, Any]) -> str:
    """The figures as a short table."""
    lines = []
    rows = {
        "named": figures["named"],
        "neutral": figures["neutral"],
        **{f"held-out {k}": v for k, v in figures["held_out"].items()},
    }
    for name, row in rows.items():
        per = "  ".join(f"{label} {value:.3f}" for label, value in row["by_emotion"].items())
        lines.append(
            f"{name:20s} n={row['n']} accuracy {row['accuracy']:.3f}  accepted {row['structure_accepted']:.3f}  "
            f"distinct {row['distinct']:.3f}  {per}"
        )
    lines.append("loss " + "  ".join(f"{split} {value:.3f}" for split, value in figures["loss"].items()))
    for kind, row in figures["depth"].items():
        lines.append(f"depth {kind:14s} " + " ".join(f"{value:.2f}" for value in row))
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--limit", type=int, default=None, help="test groups to use")
    parser.add_argument("--json", type=Path, default=None, help="write the figures with every bad reply here")
    options = parser.parse_args()
    figures = evaluate(options.weights, limit=options.limit)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(summary(figures))


if __name__ == "__main__":
    main()
