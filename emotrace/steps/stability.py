"""Would other data have given the same circuit: components and scores found again, beside those of the study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from emotrace.errors import DataError
from emotrace.ledger import Ledger
from emotrace.models.load import as_model
from emotrace.steps.circuit import EmotionCircuit, chosen_components
from emotrace.steps.components import Scores, score_heads, score_neurons
from emotrace.steps.directions import emotion_directions
from emotrace.steps.influence import Influence
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.capture import Sample, Statistics, capture
from emotrace.trace.plan import Component
from emotrace.trace.resample import capture_resampled, poisson_draws

Chosen = Mapping[str, Mapping[str, Sequence[Component]]]


@dataclass(frozen=True)
class Agreement:
    """How alike components found again are to those of the study, at one site.

    Attributes:
        jaccard: of the two circuits' components, float64 ``[draws, E]``.
        rank_correlation: Spearman's, of all components' scores, ``[draws, E]``.
        chance: Jaccard to be expected of random components with the circuit's counts in every sublayer, ``[E]``.
    """

    jaccard: NDArray[np.float64]
    rank_correlation: NDArray[np.float64]
    chance: NDArray[np.float64]

    def summary(self, emotions: Sequence[str]) -> dict[str, Any]:
        """Means over emotions; beside them the middle 95 % of draws, or of emotions where there is one draw."""
        found: dict[str, Any] = {"chance": float(self.chance.mean())}
        for name in ("jaccard", "rank_correlation"):
            values: NDArray[np.float64] = getattr(self, name)
            spread = values.mean(1) if len(values) > 1 else values[0]
            low, high = np.percentile(spread, [2.5, 97.5])
            by_emotion = dict(zip(emotions, values.mean(0).tolist(), strict=True))
            found[name] = {"mean": float(values.mean()), "spread": [float(low), float(high)], "by_emotion": by_emotion}
        return found


def rescored(
    model: Any,
    statistics: Statistics,
    *,
    samples: Sequence[Sample] = (),
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Scores:
    """Analytic scores from statistics of other prompts, along directions of their own.

    ``samples`` as :func:`emotrace.score_components` takes them, where a norm follows a sublayer.
    """
    directions = emotion_directions(statistics)
    options: dict[str, Any] = {"samples": samples, "batch_tokens": batch_tokens, "ledger": ledger}
    heads = score_heads(model, statistics, directions, **options)
    return Scores(directions.emotions, "analytic", heads, score_neurons(model, statistics, directions, **options))


def over_scenarios(
    model: Any,
    samples: Sequence[Sample],
    conditions: Sequence[str],
    clusters: Sequence[str],
    *,
    draws: int = 20,
    seed: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> list[Scores]:
    """Scores from Poisson bootstrap draws of scenarios, accumulated in one pass (:func:`emotrace.capture_resampled`).

    Where a norm follows a sublayer each draw takes one more pass, over the prompts it holds. A draw that happens to
    hold no scenario is left out; of few scenarios many do, and fewer than two draws left raise ``DataError``.
    """
    wrapped = as_model(model)
    _, *drawn = capture_resampled(
        wrapped,
        samples,
        conditions,
        clusters,
        resamples=draws,
        seed=seed,
        batch_tokens=batch_tokens,
        ledger=ledger,
    )
    again = bool(wrapped.architecture.attn_norm or wrapped.architecture.mlp_norm)
    times = {name: poisson_draws(name, draws, seed).tolist() for name in set(clusters)} if again else {}
    found = []
    for draw, statistics in enumerate(drawn):
        if not bool(statistics.count.any()):
            continue
        held = [s for s, name in zip(samples, clusters, strict=True) for _ in range(times[name][draw])] if again else []
        found.append(rescored(wrapped, statistics, samples=held, batch_tokens=batch_tokens))
    if len(found) < 2:
        raise DataError(
            f"{len(found)} of {draws} draws of {len(set(clusters))} scenarios hold any: resampling needs more scenarios"
        )
    return found


def in_other_words(
    model: Any,
    samples: Sequence[Sample],
    conditions: Sequence[str],
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
    name: str = "other_words",
) -> Scores:
    """Scores from prompts that ask in other words; ``name`` is the ledger's for this work."""
    statistics = capture(model, samples, conditions, batch_tokens=batch_tokens, ledger=ledger, name=name)
    return rescored(model, statistics, samples=samples, batch_tokens=batch_tokens)


def agreement(
    circuit: EmotionCircuit, scores: Scores, found: Sequence[Scores], influence: Influence, site: str
) -> Agreement:
    """Components and scores of ``found`` beside the study's own.

    Circuits are assembled from each with the study's budgets, allocation and influence.

    Args:
        circuit: the study's.
        scores: the study's analytic scores.
        found: scores from other data, one for each draw.
        influence: the study's.
        site: ``heads`` or ``neurons``.

    Raises:
        DataError: the study's scores are of another method.
    """
    if scores.method != "analytic":
        raise DataError(
            f"stability compares analytic scores, and these are {scores.method}: score components by analytic"
        )
    own = {e: set(circuit.components(site, e)) for e in circuit.emotions}
    jaccard, ranks = [], []
    for other in found:
        chosen = chosen_components(other, influence, circuit.budgets, circuit.allocation)
        theirs = {e: set(chosen[e][site]) for e in circuit.emotions}
        jaccard.append([_jaccard(own[e], theirs[e]) for e in circuit.emotions])
        pairs = zip(scores.at(site), other.at(site), strict=True)
        ranks.append([float(stats.spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic) for a, b in pairs])
    layers, width = scores.at(site).shape[1:]
    expected = []
    for emotion in circuit.emotions:
        counts = torch.tensor(circuit.counts(site, emotion, layers), dtype=torch.float64)
        shared = float((counts.square() / max(width, 1)).sum())
        expected.append(shared / max(2 * float(counts.sum()) - shared, 1.0))
    return Agreement(np.array(jaccard), np.array(ranks), np.array(expected))


def _jaccard(one: set[Component], other: set[Component]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0
