"""Discovery against the published procedure: `python -m benchmarks discovery`.

Directions, difference vectors, scores of all neurons and heads, and the influence of all sublayers at four strengths,
on the bundled model, prompt tokens given. The loops run a forward pass for each head and prompt, and for each
sublayer, strength and prompt, one prompt at a time, and in batches under the same token budget. They compute a random
5 % of the numbers, on all prompts, and their time is scaled; what they compute is compared with ours. Memory is the
peak in a process of its own above what is resident with model and prompts. Forward tokens are counted by hooks inside
the blocks and weighted by the share of layers that computed them.

The ideal is (LH + 2LS) GET / [G(E+1)T + GE 2LS f]: every prompt read once, and f the mean share of the sublayers
above the one that is pushed. Prompts that begin alike are read once by emotrace, which the ideal does not foresee.
"""

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import emotrace as et
from benchmarks import loops
from benchmarks.fresh import costs, fresh
from benchmarks.record import keep
from benchmarks.timing import in_turn, ratios, spread, timed
from emotrace.steps.influence import ALPHAS

SHARE = 0.05
LLAMA_3B = {"layers": 28, "heads": 24, "emotions": 6, "strengths": 4, "tokens": 96.0}


@dataclass(frozen=True)
class Study:
    """What is discovered: prompts of each condition, the neutral one last."""

    model: et.Model
    conditions: tuple[str, ...]
    prompts: list[list[list[int]]]
    budget: int

    @property
    def neutral(self) -> list[list[int]]:
        return self.prompts[-1]

    @property
    def emotions(self) -> int:
        return len(self.conditions) - 1

    @cached_property
    def samples(self) -> list[et.Sample]:
        """Prompts without replies, so that only the last token counts."""
        return [et.Sample(c, tuple(ids)) for c, listed in enumerate(self.prompts) for ids in listed]

    def run(self) -> tuple[et.Directions, et.Scores, et.Influence]:
        """All of it, by emotrace."""
        statistics = et.capture(self.model, self.samples, self.conditions, batch_tokens=self.budget)
        directions = et.emotion_directions(statistics)
        last = et.Differences(directions.emotions, "emotions", _centred(statistics), {})
        scores = et.score_components(self.model, statistics, directions, last)
        found = et.sublayer_influence(self.model, self.neutral, directions, batch_tokens=self.budget)
        return directions, scores, found


def _centred(statistics: et.Statistics) -> dict[str, torch.Tensor]:
    means = {site: statistics.last[site][:-1] for site in ("heads", "neurons")}
    return {site: values - values.mean(0) for site, values in means.items()}


def study_of(scenarios: int, budget: int) -> Study:
    """Of the bundled model on scenarios of sev-mini, three events each."""
    model = et.load("bundled")
    conditions = (*et.PAPER_SIX.labels, "neutral")
    chosen = et.groups(et.load_sev("sev-mini").train[:scenarios])
    prompts = [model.encode([et.prompt(group, c, et.PAPER_SIX) for group in chosen]) for c in conditions]
    return Study(model, conditions, prompts, budget)


def ideal(layers: int, heads: int, emotions: int, strengths: int, tokens: float) -> float:
    """How many times fewer forward tokens than the loops, per group of prompts.

    >>> round(ideal(**LLAMA_3B))
    387
    """
    pushes = 2 * layers * strengths
    above = (2 * layers - 1) / (4 * layers)  # mean over 2L sublayers of the sublayers above, of 2L
    return (layers * heads + pushes) * emotions * tokens / ((emotions + 1) * tokens + emotions * pushes * above)


def counted(layers: int, heads: int, emotions: int, strengths: int, tokens: float) -> float:
    """The same for what emotrace runs when no two prompts begin alike: neutral prefixes are read a second time, and a
    pushed layer is computed whole.

    >>> round(counted(**LLAMA_3B))
    353
    """
    pushes = 2 * layers * strengths
    above = (layers + 1) / (2 * layers)
    reads = (emotions + 1) * tokens + tokens
    return (layers * heads + pushes) * emotions * tokens / (reads + emotions * pushes * above)


@contextmanager
def token_counter(hf: Any) -> Iterator[list[int]]:
    """Tokens that each layer's MLP computes, in a list that fills meanwhile."""
    tokens = [0] * len(hf.model.layers)

    def counter(layer: int) -> Callable[..., None]:
        def count(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            tokens[layer] += args[0].shape[0] * args[0].shape[1]

        return count

    with ExitStack() as hooks:
        for layer, block in enumerate(hf.model.layers):
            hooks.enter_context(loops.hooked(block.mlp.gate_proj, counter(layer), before=True))
        yield tokens


class Loops:
    """A random share of the published loops, cut into rounds; times are scaled to all of them."""

    def __init__(self, study: Study, directions: et.Directions, budget: int, rounds: int, share: float) -> None:
        sizes, emotions = study.model.sizes, range(study.emotions)
        draw = random.Random(0)
        heads = [(e, la, h) for e in emotions for la in range(sizes.layers) for h in range(sizes.heads)]
        sublayers = [(e, la, p) for e in emotions for la in range(sizes.layers) for p in range(2)]
        self.counts = (len(heads), len(sublayers))
        self.parts = [
            (
                draw.sample(heads, max(1, round(share * len(heads) / rounds))),
                draw.sample(sublayers, max(1, round(share * len(sublayers) / rounds))),
            )
            for _ in range(rounds + 1)
        ]
        self.study, self.directions, self.budget, self.turn = study, directions, budget, 0
        self.hf = study.model.nn._module
        layers = range(sizes.layers)
        self.before = [loops.streams(self.hf, prompts, layers, budget) for prompts in study.prompts[:-1]]
        self.final = loops.final_states(self.hf, study.neutral, budget)
        self.scores: dict[Any, float] = {}
        self.influence: dict[Any, float] = {}

    def seconds(self) -> float:
        """Run the next part; seconds that all cells would take."""
        heads, sublayers = self.parts[self.turn]
        self.turn += 1
        scoring, pushing = timed(lambda: self.score(heads)), timed(lambda: self.push(sublayers))
        return scoring * self.counts[0] / len(heads) + pushing * self.counts[1] / len(sublayers)

    def score(self, cells: list[Any]) -> None:
        """Scores of some heads."""
        for cell in cells:
            prompts, before = self.study.prompts[cell[0]], self.before[cell[0]]
            self.scores[cell] = loops.head_score(self.hf, prompts, cell, self.directions, self.budget, before)

    def push(self, cells: list[Any]) -> None:
        """Influence of some sublayers."""
        for cell in cells:
            given = (cell, self.directions, ALPHAS, self.budget, self.final)
            self.influence[cell] = loops.influence(self.hf, self.study.neutral, *given)

    def apart(self, scores: et.Scores, influence: et.Influence) -> float:
        """Largest difference from emotrace's numbers, relative to the largest number of the kind; NaN when one is."""
        differences = []
        for found, ours in ((self.scores, scores.heads), (self.influence, influence.values)):
            expected = torch.stack([ours[cell] for cell in found])
            differences.append((torch.tensor([*found.values()]) - expected).abs().max() / ours.abs().max())
        return float(torch.stack(differences).max())


def memory(kind: str, scenarios: int, budget: int, directions: str) -> dict[str, float]:
    """Peak above the model of all of ours, or of a part of the loops that holds both kinds of cells."""
    study, found = study_of(scenarios, budget), et.Directions.load(directions)
    _ = study.samples
    if kind == "ours":
        return costs(lambda: None, study.run)
    return costs(lambda: None, lambda: Loops(study, found, 1 if kind == "single" else budget, 1, 0.0).seconds())


def main(*, scenarios: int = 40, rounds: int = 5, budget: int = 4096, share: float = SHARE) -> str:
    """Measure, check, and keep the tables."""
    study = study_of(scenarios, budget)
    sizes = study.model.sizes
    with token_counter(study.model.nn._module) as tokens:
        directions, scores, influence = study.run()
    ours = sum(tokens) / sizes.layers
    groups = len(study.neutral)
    mean_tokens = sum(len(ids) for listed in study.prompts[:-1] for ids in listed) / groups / study.emotions
    shape = {"layers": sizes.layers, "heads": sizes.heads, "emotions": study.emotions, "strengths": len(ALPHAS)}
    theirs = (sizes.layers * sizes.heads + 2 * sizes.layers * len(ALPHAS)) * groups * study.emotions * mean_tokens
    single = Loops(study, directions, 1, rounds, share)
    batched = Loops(study, directions, budget, rounds, share)
    calls = {"ours": lambda: timed(study.run), "single": single.seconds, "batched": batched.seconds}
    seconds = in_turn(calls, rounds)
    apart = float(np.max([loop.apart(scores, influence) for loop in (single, batched)]))
    assert apart < 1e-4, f"the loops and emotrace differ by {apart:.2g}"
    with tempfile.TemporaryDirectory() as scratch:
        path = str(directions.save(Path(scratch) / "directions.safetensors"))
        given = {"scenarios": scenarios, "budget": budget, "directions": path}
        peaks = {kind: fresh("benchmarks.discovery:memory", kind=kind, **given)["peak"] / 1e6 for kind in calls}
    rows = [
        {"": "emotrace", "weighted forward tokens": ours, "seconds": spread(seconds["ours"]),
         "times emotrace": "1", "peak MB": peaks["ours"]},
        *(
            {"": name, "weighted forward tokens": theirs, "seconds": spread(seconds[key]),
             "times emotrace": ratios(seconds[key], seconds["ours"]), "peak MB": peaks[key]}
            for name, key in (
                ("loops, one prompt at a time", "single"),
                (f"loops, batches of {budget:,} tokens", "batched"),
            )
        ),
    ]  # fmt: skip
    best = ideal(**shape, tokens=mean_tokens)
    counts = [
        {"shape": f"bundled, {groups} groups, T = {mean_tokens:.1f}, measured", "fewer forward tokens": theirs / ours,
         "ideal": best, "share of the ideal": theirs / ours / best},
        {"shape": "Llama-3.2-3B, T = 96, by count", "fewer forward tokens": counted(**LLAMA_3B),
         "ideal": ideal(**LLAMA_3B), "share of the ideal": counted(**LLAMA_3B) / ideal(**LLAMA_3B)},
    ]  # fmt: skip
    cells = f"{len(single.scores)} head scores and {len(single.influence)} influences"
    tables = [
        ("Work, time and memory", rows),
        ("Forward tokens against the loops", counts),
        ("Agreement", [{"numbers compared": cells, "largest relative difference": apart}]),
    ]
    return keep("discovery", "Discovery against the published loops", tables, __doc__)
