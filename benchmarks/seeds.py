"""The bundled model trained again from other seeds: does the method find circuits of the same kind?

Indices mean nothing across seeds: a head's number is an accident of its initial weights. So circuits are compared by
role. The role profile of a study is how its positive component scores are spread over sublayers (attention and MLP of
every layer); overlap is the sum over sublayers of the smaller share, 1 for equal profiles. Beside it stands what the
same profile overlaps with a uniform one, and the Jaccard overlap of the indices themselves, which should be at chance.
Writers are the heads whose single removal at the last prompt token costs a tenth of the emotion's reading or more.

A seed is trained by `python -m emotrace.models.bundled.train --seed N --only-train --out .bench/seeds/N`, 50 minutes on
one core; folders that hold a finished training are taken as they are. The first model is the bundled one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

import emotrace as et
from benchmarks.record import keep
from emotrace.models.bundled.training import Recipe, train
from emotrace.steps.circuit import SITES
from emotrace.steps.evaluate import accuracy
from emotrace.steps.necessity import against_random, best_heads
from emotrace.steps.quality import Bench
from emotrace.steps.random_circuits import Controls

FOLDER = Path(__file__).parents[1] / ".bench" / "seeds"
SEEDS = (1, 2)
WRITER = 0.1
"""Share of the emotion's reading that a head's removal must cost for it to be called a writer."""


@dataclass(frozen=True)
class Outcome:
    """What discovery found on the model of one seed.

    Attributes:
        seed: the training seed.
        scores: of all components.
        members: site -> emotion -> components of the circuit.
        writers: emotion -> heads whose removal costs ``WRITER`` of the reading or more.
        figures: a row of the table.
    """

    seed: int
    scores: et.Scores
    members: Mapping[str, Mapping[str, set[tuple[int, int]]]]
    writers: Mapping[str, list[tuple[int, int]]]
    figures: dict[str, Any]


def profile(scores: et.Scores) -> np.ndarray:
    """Share of positive scores in each sublayer, mean over emotions: ``[L, 2]``; heads and neurons sum to 1 each."""
    shares = [scores.at(site).clamp(min=0).sum(-1) for site in SITES]
    each = [(part / part.sum(-1, keepdim=True)).mean(0) for part in shares]
    return torch.stack(each, -1).numpy()


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Sum of the smaller shares, mean over heads and neurons: 1 for equal profiles, 0 for disjoint ones."""
    return float(np.minimum(one, other).sum(0).mean())


def jaccard(one: Mapping[str, set[Any]], other: Mapping[str, set[Any]]) -> float:
    """Overlap of indices, mean over emotions."""
    return float(np.mean([len(one[e] & other[e]) / max(1, len(one[e] | other[e])) for e in one]))


def study(seed: int, folder: str | Path, *, scenarios: int, tested: int, draws: int) -> Outcome:
    """Discovery, necessity, single heads and steering on one model."""
    model, data = et.load(str(folder)), et.load_sev("sev-mini")
    found = et.discover(model, data.train[:scenarios])
    labels, circuit = found.circuit.emotions, found.circuit
    chosen = [g for i, g in enumerate(et.groups(data.test[:tested])) if i % 3 == (i // 3) % 3]
    prompts = [model.encode([et.prompt(g, e, et.PAPER_SIX) for e in labels]) for g in chosen]
    bench = Bench(model, labels, prompts, found.directions.reference, "mean", "last")
    controls = Controls(model, circuit, found.differences)
    drawn = [controls.matched(draw) for draw in range(draws)]
    alone, removed = (against_random(bench, circuit, drawn, removed=gone) for gone in (False, True))
    heads = {e: [(layer, h) for layer in range(model.sizes.layers) for h in range(model.sizes.heads)] for e in labels}
    singly = best_heads(bench, heads, seed=seed)
    writers = {
        e: [(layer, h) for (_, layer, h), drop in zip(part.components, part.drops, strict=True) if drop >= WRITER]
        for e, part in singly.items()
    }
    tasks = et.held_out_tasks(data.test, et.PAPER_SIX, tested)
    replies = et.evaluate(
        model,
        "circuit",
        [et.Attempt(t, et.add(circuit, t.emotion)) for t in tasks],
        et.PAPER_SIX,
        et.BundledJudge.load(),
    )
    share = accuracy(replies, seed)
    distinct = sorted(set().union(*writers.values()))
    return Outcome(
        seed,
        found.scores,
        {site: {e: set(circuit.components(site, e)) for e in labels} for site in SITES},
        writers,
        {
            "seed": seed,
            "groups accepted": f"{len(found.elicited.accepted_groups)} of {3 * scenarios}",
            "judged as asked, strength 1": f"{share.estimate:.1%} ({share.low:.1%} to {share.high:.1%})",
            "f without the circuit": float(removed.circuit.values[0]),
            "without random": float(removed.random.mean()),
            "p": removed.p,
            "f of the circuit alone": float(alone.circuit.values[0]),
            "random alone": float(alone.random.mean()),
            "writer heads": ", ".join(f"{layer}.{head}" for layer, head in distinct),
        },
    )


def compared(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One row for each pair of seeds."""
    rows = []
    for one, other in combinations(outcomes, 2):
        mine, theirs = profile(one.scores), profile(other.scores)
        flat = np.full_like(mine, 1 / len(mine))
        layers = [{layer for held in o.writers.values() for layer, _ in held} for o in (one, other)]
        rows.append(
            {
                "seeds": f"{one.seed}, {other.seed}",
                "role profile, overlap": overlap(mine, theirs),
                "with a uniform profile": (overlap(mine, flat) + overlap(theirs, flat)) / 2,
                "writers' layers": " / ".join(",".join(map(str, sorted(held))) or "none" for held in layers),
                "heads in common by index (Jaccard)": jaccard(one.members["heads"], other.members["heads"]),
                "neurons in common by index": jaccard(one.members["neurons"], other.members["neurons"]),
            }
        )
    return rows


def trained(seed: int) -> Path:
    """The folder of a seed's model, trained if it is not there yet."""
    folder, recipe = FOLDER / str(seed), Recipe(seed=seed)
    if not finished(recipe, folder):
        train(recipe, folder)
    return folder


def finished(recipe: Recipe, folder: Path) -> bool:
    """Whether a folder holds a model that was trained to the end by this recipe."""
    file = folder / "training.json"
    record = json.loads(file.read_text()) if file.is_file() else {"recipe": None, "stages": []}
    return record["recipe"] == json.loads(json.dumps(asdict(recipe))) and len(record["stages"]) == len(recipe.stages)


def main(
    folders: Mapping[int, str | Path] | None = None, *, scenarios: int = 80, tested: int = 20, draws: int = 39
) -> str:
    """Train what is missing, run every seed, compare them."""
    if folders is None:
        folders = {Recipe.seed: et.BUNDLED, **{seed: trained(seed) for seed in SEEDS}}
    outcomes = [study(seed, f, scenarios=scenarios, tested=tested, draws=draws) for seed, f in folders.items()]
    tables = [
        ("Each seed, test scenarios; mean ablation at the last prompt token", [o.figures for o in outcomes]),
        ("Pairs of seeds", compared(outcomes)),
    ]
    return keep("seeds", "Circuits across training seeds", tables, __doc__)


if __name__ == "__main__":
    print(main())
