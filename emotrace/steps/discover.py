"""The whole discovery in one call: from scenarios to an emotion circuit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emotrace.data.concepts import NEUTRAL, PAPER_SIX, ConceptSet
from emotrace.data.sev import Scenario, SevDataset, groups
from emotrace.errors import DataError
from emotrace.judges.base import Judge
from emotrace.judges.bundled import BundledJudge
from emotrace.ledger import Ledger
from emotrace.models.load import as_model
from emotrace.steps.circuit import EmotionCircuit, assemble, default_budgets
from emotrace.steps.components import Scores, score_components
from emotrace.steps.directions import Differences, Directions, difference_vectors, emotion_directions
from emotrace.steps.elicit import Elicitation, elicit
from emotrace.steps.influence import Influence, sublayer_influence
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.capture import Statistics, capture

INFLUENCE_PROMPTS = 40


@dataclass(frozen=True)
class Study:
    """Everything that discovery found, step by step."""

    elicited: Elicitation
    statistics: Statistics
    directions: Directions
    differences: Differences
    scores: Scores
    influence: Influence
    circuit: EmotionCircuit


def discover(
    model: Any,
    scenarios: Sequence[Scenario],
    *,
    concepts: ConceptSet = PAPER_SIX,
    judge: Judge | None = None,
    heads: int | None = None,
    neurons: int | None = None,
    contrast: str = "neutral",
    method: str = "analytic",
    readout: str = "residual",
    allocation: str = "influence",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Study:
    """Elicit, capture, find directions, score components, measure influence, assemble the circuit.

    Args:
        model: from :func:`emotrace.load`, or your nnsight model.
        scenarios: training scenarios.
        concepts: the emotions.
        judge: decides which replies count; the bundled judge by default.
        heads: heads per emotion; 1 in 32 of the model's by default.
        neurons: neurons per emotion; 2.5 % of the model's by default (none for a mixture of experts).
        contrast: of the difference vectors that the circuit adds, ``neutral`` or ``emotions``.
        method: how components are scored.
        readout: of analytic head scores, ``residual`` or ``normed``.
        allocation: how budgets are shared among sublayers.
        batch_tokens: token budget of a batch.
        ledger: shows progress and keeps batches; in memory by default.

    >>> import emotrace as et
    >>> study = et.discover(et.load("bundled"), et.load_sev("sev-mini").train[:3])
    >>> study.circuit.budgets
    {'heads': 4, 'neurons': 76}
    >>> study.directions.vectors.shape, study.scores.heads.shape
    (torch.Size([6, 8, 2, 128]), torch.Size([6, 8, 16]))

    Raises:
        DataError: no group was accepted in every emotion.
        CircuitError: a budget does not fit.
    """
    wrapped = as_model(model)
    if isinstance(scenarios, SevDataset):
        raise DataError("discover takes the scenarios of one split: data.train")
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "ledger": ledger}
    elicited = elicit(wrapped, groups(scenarios), concepts, judge or BundledJudge.load(), **options)
    samples = elicited.samples()
    statistics = capture(wrapped, samples, elicited.conditions, **options)
    directions = emotion_directions(statistics)
    differences = difference_vectors(statistics, contrast=contrast)
    sampled = [reply.prompt_ids for reply in elicited.spread(NEUTRAL, INFLUENCE_PROMPTS)]
    scores = score_components(
        wrapped,
        statistics,
        directions,
        differences,
        method=method,
        readout=readout,
        samples=samples,
        prompts=sampled,
        **options,
    )
    influence = sublayer_influence(wrapped, sampled, directions, **options)
    budgets = default_budgets(wrapped.sizes, heads, neurons)
    circuit = assemble(wrapped, scores, influence, differences, **budgets, allocation=allocation)
    return Study(elicited, statistics, directions, differences, scores, influence, circuit)
