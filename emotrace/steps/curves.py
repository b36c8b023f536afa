"""Dose curves: a measure against the number of components edited, the best ones beside random ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emotrace.formulas.statistics import cluster_bootstrap
from emotrace.steps.components import Scores
from emotrace.trace.plan import Component


@dataclass(frozen=True)
class Curve:
    """Values per prompt of one curve.

    Attributes:
        ks: numbers of components.
        top: per emotion ``[K, N]``, the measure with the k best components edited.
        random: per emotion ``[K, N]``, the same with random components, a draw for each prompt in turn.
        baseline: per emotion ``[N]``, unedited.
        clusters: per emotion, the scenario of each prompt.
    """

    ks: tuple[int, ...]
    top: Mapping[str, np.ndarray]
    random: Mapping[str, np.ndarray]
    baseline: Mapping[str, np.ndarray]
    clusters: Mapping[str, Sequence[str]]

    def summary(self, measure: str, seed: int) -> dict[str, Any]:
        """Means over emotions with 95 % bands over scenarios, as JSON."""
        clusters = [c for e in self.top for c in self.clusters[e]]

        def pooled(values: Mapping[str, np.ndarray]) -> tuple[list[float], list[list[float]]]:
            bands = [
                cluster_bootstrap(np.concatenate([values[e][row] for e in values]), clusters, seed=seed)
                for row in range(len(self.ks))
            ]
            return [b.estimate for b in bands], [[b.low, b.high] for b in bands]

        top, top_band = pooled(self.top)
        random, random_band = pooled(self.random)
        return {
            "k": list(self.ks),
            "top": top,
            "top_band": top_band,
            "random": random,
            "random_band": random_band,
            "baseline": float(np.mean(np.concatenate([self.baseline[e] for e in self.top]))),
            "by_emotion": {
                e: {
                    "top": self.top[e].mean(-1).tolist(),
                    "random": self.random[e].mean(-1).tolist(),
                    "baseline": float(self.baseline[e].mean()),
                }
                for e in self.top
            },
            "measure": measure,
        }


def random_components(scores: Scores, site: str, emotion: str, count: int, seed: int) -> list[Component]:
    """``count`` random components of ``site`` that are not among the ``count`` best of ``emotion``."""
    layers, width = scores.at(site).shape[1:]
    best = set(scores.top(site, emotion, count))
    order = torch.randperm(layers * width, generator=torch.Generator().manual_seed(seed)).tolist()
    free = ((n // width, n % width) for n in order if (n // width, n % width) not in best)
    return [component for component, _ in zip(free, range(count), strict=False)]


def dose_curve(
    scores: Scores,
    site: str,
    ks: Sequence[int],
    draws: int,
    clusters: Mapping[str, Sequence[str]],
    measure: Callable[[str, list[list[Component]]], np.ndarray],
    *,
    seed: int,
) -> Curve:
    """The k best components against random ones, for every emotion and every k up to half of all.

    Args:
        scores: what "best" means.
        site: ``heads`` or ``neurons``.
        ks: numbers of components.
        draws: random draws; prompts take them in turn, so that a band over scenarios covers the draws too.
        clusters: per emotion, the scenario of each of its N prompts.
        measure: ``(emotion, components of each prompt) -> [N]``.
        seed: start of the random draws.
    """
    total = scores.at(site)[0].numel()
    used = tuple(k for k in ks if k <= total // 2)
    top: dict[str, np.ndarray] = {}
    random: dict[str, np.ndarray] = {}
    baseline: dict[str, np.ndarray] = {}
    for emotion in scores.emotions:
        n = len(clusters[emotion])
        baseline[emotion] = measure(emotion, [[]] * n)
        top[emotion] = np.stack([measure(emotion, [scores.top(site, emotion, k)] * n) for k in used])
        dealt = []
        for k in used:
            drawn = [random_components(scores, site, emotion, k, seed + 104729 * (d + 1)) for d in range(draws)]
            dealt.append(measure(emotion, [drawn[row % draws] for row in range(n)]))
        random[emotion] = np.stack(dealt)
    return Curve(used, top, random, baseline, clusters)
