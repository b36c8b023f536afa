"""Scores of every neuron and head: which of them write an emotion's direction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from emotrace.artifacts import Artifact
from emotrace.data.concepts import NEUTRAL
from emotrace.errors import DataError
from emotrace.formulas.scores import head_alignment, head_scores, neuron_alignment, neuron_scores, ranking
from emotrace.ledger import Ledger, MemoryLedger, Record
from emotrace.models.traced import Model
from emotrace.steps.directions import Differences, Directions
from emotrace.trace.capture import Statistics
from emotrace.trace.suffix import readout_gradients
from emotrace.trace.variants import zeroing_falls

METHODS = ("analytic", "attribution", "gradient", "activation_difference", "weight_alignment", "random")


@dataclass(frozen=True)
class Scores(Artifact):
    """Scores of all components under one method; higher is more important, signed.

    Attributes:
        emotions: E names.
        method: one of ``METHODS``.
        heads: float64 ``[E, L, H]``.
        neurons: float64 ``[E, L, F]``.
    """

    emotions: tuple[str, ...]
    method: str
    heads: torch.Tensor
    neurons: torch.Tensor

    def at(self, site: str) -> torch.Tensor:
        """``heads`` or ``neurons``."""
        return {"heads": self.heads, "neurons": self.neurons}[site]

    def top(self, site: str, emotion: str, count: int) -> list[tuple[int, int]]:
        """The best ``count`` components of ``site`` as (layer, index)."""
        order = ranking(self.at(site)[self.emotions.index(emotion)])
        return [(layer, index) for layer, index in order[:count].tolist()]


def score_components(
    model: Model,
    statistics: Statistics,
    directions: Directions,
    differences: Differences,
    *,
    method: str = "analytic",
    prompts: Sequence[Sequence[int]] = (),
    seed: int = 0,
) -> Scores:
    """Score every head and neuron (README, The method).

    Methods: ``analytic`` is the fall of the state's projection when the component is zeroed, in closed form;
    ``attribution`` the same for the difference vector in place of the activation; ``gradient`` is gradient of the
    reference readout on ``prompts`` times the difference vector; ``activation_difference`` its size;
    ``weight_alignment`` sees weights only; ``random`` is the control. Raises ``DataError`` for an unknown method, or a
    gradient without prompts.
    """
    if method not in METHODS:
        raise DataError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    if method == "analytic":
        heads, neurons = score_heads(model, statistics, directions), score_neurons(model, statistics, directions)
        return Scores(directions.emotions, method, heads, neurons)
    out, down = model.out_proj_weight(), model.down_proj_weight()
    attn, mlp = directions.vectors[:, :, 0], directions.vectors[:, :, 1]
    if method == "attribution":
        heads = head_scores(differences.last["heads"], out, attn)
        neurons = neuron_scores(differences.last["neurons"], down, mlp)
    elif method == "gradient":
        if not prompts:
            raise DataError("method='gradient' needs prompts to take the gradient at")
        gradients = readout_gradients(model, prompts, directions.reference, "final_norm") / len(prompts)
        heads = head_scores(differences.last["heads"], out, gradients[:, :, 0])
        neurons = neuron_scores(differences.last["neurons"], down, gradients[:, :, 1])
    elif method == "activation_difference":
        heads, neurons = differences.last["heads"].norm(dim=-1), differences.last["neurons"].abs()
    elif method == "weight_alignment":
        heads, neurons = head_alignment(out, attn), neuron_alignment(down, mlp)
    else:
        generator = torch.Generator().manual_seed(seed)
        shapes = differences.last["heads"].shape[:-1], differences.last["neurons"].shape
        heads, neurons = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return Scores(directions.emotions, method, heads, neurons)


def score_heads(model: Model, statistics: Statistics, directions: Directions) -> torch.Tensor:
    """Analytic head scores, float64 ``[E, L, H]``: ``(W_O z) . v``, no forward pass."""
    rows = [statistics.conditions.index(emotion) for emotion in directions.emotions]
    return head_scores(statistics.last["heads"][rows], model.out_proj_weight(), directions.vectors[:, :, 0])


def score_neurons(model: Model, statistics: Statistics, directions: Directions) -> torch.Tensor:
    """Analytic neuron scores, float64 ``[E, L, F]``: ``a (W_down . v)``, no forward pass."""
    rows = [statistics.conditions.index(emotion) for emotion in directions.emotions]
    return neuron_scores(statistics.last["neurons"][rows], model.down_proj_weight(), directions.vectors[:, :, 1])


def causal_scores(
    model: Model,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    directions: Directions,
    site: str,
    components: Mapping[int, Sequence[int]],
    *,
    ledger: Ledger | None = None,
) -> dict[tuple[str, int, int], float]:
    """Scores by really zeroing, averaged over each emotion's prompts: the check on the closed form.

    Args:
        model: any model.
        prompts: token ids per emotion.
        directions: what the fall is read along.
        site: ``heads`` or ``neurons``.
        components: indices per layer.
        ledger: keeps finished batches (one per emotion and prompt).

    Returns:
        score per (emotion, layer, index).
    """
    if NEUTRAL in prompts:
        raise DataError("causal scores are taken on emotion prompts")
    sublayer = 0 if site == "heads" else 1
    batches = [(emotion, tuple(ids)) for emotion in directions.emotions for ids in prompts[emotion]]

    def work(batch: tuple[str, tuple[int, ...]]) -> list[Record]:
        emotion, ids = batch
        vectors = directions.vectors[directions.emotions.index(emotion), :, sublayer]
        falls = {
            layer: zeroing_falls(model, ids, site, layer, indices, vectors[layer]).tolist()
            for layer, indices in components.items()
        }
        return [
            {"emotion": emotion, "layer": layer, "index": index, "fall": fall}
            for layer, indices in components.items()
            for index, fall in zip(indices, falls[layer], strict=True)
        ]

    totals: dict[tuple[str, int, int], float] = {}
    for record in (ledger or MemoryLedger()).map(f"causal_{site}", batches, work):
        key = (record["emotion"], record["layer"], record["index"])
        totals[key] = totals.get(key, 0.0) + record["fall"]
    return {key: total / len(prompts[key[0]]) for key, total in totals.items()}
