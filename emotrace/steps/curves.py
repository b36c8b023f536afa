"""Dose curves: a measure against the number of components edited, the best ones beside random ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emotrace.errors import DataError
from emotrace.formulas.statistics import cluster_bootstrap
from emotrace.ledger import Ledger, MemoryLedger, Record
from emotrace.steps.components import Scores
from emotrace.trace.adapting import Adaptive
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
        draws: number of random draws; prompt i takes draw i modulo this.
    """

    ks: tuple[int, ...]
    top: Mapping[str, np.ndarray]
    random: Mapping[str, np.ndarray]
    baseline: Mapping[str, np.ndarray]
    clusters: Mapping[str, Sequence[str]]
    draws: int

    def summary(self, measure: str, seed: int) -> dict[str, Any]:
        """Means over emotions with 95 % bands, as JSON: over scenarios for the best, over draws for random ones."""
        scenarios = [c for e in self.top for c in self.clusters[e]]
        drawn = [str(i % self.draws) for e in self.top for i in range(len(self.clusters[e]))]

        def pooled(values: Mapping[str, np.ndarray], clusters: list[str]) -> tuple[list[float], list[list[float]]]:
            bands = [
                cluster_bootstrap(np.concatenate([values[e][row] for e in values]), clusters, seed=seed)
                for row in range(len(self.ks))
            ]
            return [b.estimate for b in bands], [[b.low, b.high] for b in bands]

        top, top_band = pooled(self.top, scenarios)
        random, random_band = pooled(self.random, drawn if self.draws > 1 else scenarios)
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
    measure: Callable[[str, list[list[list[Component]]]], np.ndarray],
    *,
    seed: int,
    workers: int = 1,
    hosted: bool = False,
    ledger: Ledger | None = None,
) -> Curve:
    """The k best components against random ones, for every emotion and every k up to a quarter of all.

    Beyond a quarter, random draws outside the best hold mostly the same components.

    Args:
        scores: what "best" means.
        site: ``heads`` or ``neurons``.
        ks: numbers of components.
        draws: random draws; prompts take them in turn.
        clusters: per emotion, the scenario of each of its N prompts.
        measure: ``(emotion, components of each prompt in each of V variants) -> [V, N]``.
        seed: start of the random draws.
        workers: emotions measured at a time.
        hosted: whether a server measures.
        ledger: keeps the finished measurements of each emotion.

    Raises:
        DataError: no k lies between 1 and a quarter of the components.
    """
    total = scores.at(site)[0].numel()
    used = tuple(k for k in ks if 1 <= k <= total // 4)
    if not used:
        raise DataError(f"every k of {tuple(ks)} lies outside 1 to {total // 4}, a quarter of the model's {site}")

    def work(emotion: str) -> list[Record]:
        n = len(clusters[emotion])
        variants: list[list[list[Component]]] = [[[]] * n]
        variants += [[scores.top(site, emotion, k)] * n for k in used]
        for k in used:
            drawn = [random_components(scores, site, emotion, k, seed + 104729 * (d + 1)) for d in range(draws)]
            variants.append([drawn[row % draws] for row in range(n)])
        adaptive = Adaptive(
            lambda chosen: measure(emotion, [variants[at] for at in chosen]),
            lambda one, other: np.concatenate([one, other]),
            f"dose curve of {site}",
            hosted=hosted,
        )
        return [{"values": adaptive(tuple(range(len(variants)))).tolist()}]

    emotions = list(scores.emotions)
    records = (ledger or MemoryLedger()).map(f"curve_{site}", emotions, work, workers=workers)
    found = {e: np.array(record["values"]) for e, record in zip(emotions, records, strict=True)}
    count = 1 + len(used)
    return Curve(
        used,
        {e: values[1:count] for e, values in found.items()},
        {e: values[count:] for e, values in found.items()},
        {e: values[0] for e, values in found.items()},
        clusters,
        draws,
    )
