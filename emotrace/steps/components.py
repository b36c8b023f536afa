"""Scores of every neuron and head: which of them write an emotion's direction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from emotrace.artifacts import Artifact
from emotrace.errors import DataError
from emotrace.formulas.scores import alignment, ranking, written
from emotrace.ledger import Ledger
from emotrace.models.load import as_model
from emotrace.models.traced import Model
from emotrace.steps.directions import Differences, Directions
from emotrace.trace.attribute import Metric, component_gradients
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.capture import Sample, Statistics
from emotrace.trace.inputs import check_prompts, check_shape
from emotrace.trace.normed import normed_scores
from emotrace.trace.variants import check_readout
from emotrace.trace.weights import directions_read_back, write_sizes

METHODS = ("analytic", "attribution", "gradient", "activation_difference", "weight_alignment", "random")


@dataclass(frozen=True)
class Scores(Artifact):
    """Scores of all components under one method; higher is more important, signed.

    Attributes:
        emotions: E names.
        method: one of ``METHODS``, or another step's name for its own.
        heads: float64 ``[E, L, H]``.
        neurons: float64 ``[E, L, F]``; F is 0 for a mixture of experts.
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
        if emotion not in self.emotions:
            raise DataError(f"the scores hold no {emotion!r}; they hold {', '.join(self.emotions)}")
        order = ranking(self.at(site)[self.emotions.index(emotion)])
        return [(layer, index) for layer, index in order[:count].tolist()]


def score_components(
    model: Any,
    statistics: Statistics,
    directions: Directions,
    differences: Differences,
    *,
    method: str = "analytic",
    readout: str = "residual",
    samples: Sequence[Sample] = (),
    prompts: Sequence[Sequence[int]] = (),
    seed: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Scores:
    """Score every head and neuron (README, The method).

    Methods: ``analytic`` is the fall of the state's projection when the component is zeroed, in closed form;
    ``attribution`` the same for the difference vector in place of the activation; ``gradient`` is gradient of the
    reference readout on ``prompts`` times the difference vector; ``activation_difference`` its size;
    ``weight_alignment`` sees weights only; ``random`` is the control.

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        statistics: from :func:`emotrace.capture`.
        directions: what is written.
        differences: difference vectors.
        method: one of ``METHODS``.
        readout: of analytic head scores: ``residual``, or ``normed``, after the norm that feeds the MLP.
        samples: those that ``statistics`` were captured on; analytic scores need them with ``readout="normed"`` and
            where a norm follows a sublayer (Gemma 2 and 3, OLMo 2), for a second pass.
        prompts: where gradients are taken.
        seed: of random scores.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.

    Raises:
        DataError: an unknown method, a gradient without prompts, or a second pass without samples.
        ModelError: the family has no such readout.
    """
    wrapped = as_model(model)
    if method not in METHODS:
        raise DataError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    _check_measured(wrapped, statistics, directions)
    _check_differences(wrapped, differences)
    options: dict[str, Any] = {"samples": samples, "batch_tokens": batch_tokens, "ledger": ledger}
    if method == "analytic":
        if readout == "residual" and wrapped.architecture.attn_norm:
            both = _behind_norms(wrapped, statistics, directions, readout, **options)
            return Scores(directions.emotions, method, both["heads"], both["neurons"])
        heads = score_heads(wrapped, statistics, directions, readout=readout, **options)
        neurons = score_neurons(wrapped, statistics, directions, **options)
        return Scores(directions.emotions, method, heads, neurons)
    if readout != "residual":
        raise DataError(f"readout={readout!r} is one of analytic scores")
    attn, mlp = directions.vectors[:, :, 0], directions.vectors[:, :, 1]
    last = differences.last
    if method == "attribution":
        heads = written(last["heads"], directions_read_back(wrapped, "heads", attn))
        neurons = written(last["neurons"], directions_read_back(wrapped, "neurons", mlp))
    elif method == "gradient":
        if not prompts:
            raise DataError("method='gradient' needs prompts to take the gradient at")
        found = component_gradients(
            wrapped, prompts, reference=directions.reference, batch_tokens=batch_tokens, ledger=ledger
        )
        heads, neurons = (found["heads"] * last["heads"]).sum(-1), found["neurons"] * last["neurons"]
    elif method == "activation_difference":
        heads, neurons = last["heads"].norm(dim=-1), last["neurons"].abs()
    elif method == "weight_alignment":
        heads = directions_read_back(wrapped, "heads", attn).norm(dim=-1)
        neurons = alignment(directions_read_back(wrapped, "neurons", mlp), write_sizes(wrapped, "neurons"))
    else:
        generator = torch.Generator().manual_seed(seed)
        shapes = last["heads"].shape[:-1], last["neurons"].shape
        heads, neurons = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return Scores(directions.emotions, method, heads, neurons)


def gradient_scores(
    model: Any,
    prompts: Sequence[Sequence[int]],
    differences: Differences,
    metric: Metric,
    *,
    tokens: str = "last",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Scores:
    """Gradient times difference vector for every head and neuron, for any metric of the logits: one backward pass.

    To first order, how much the metric rises when the component's difference vector is added (Nanda 2023, attribution
    patching).

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        prompts: token ids of the prompts to take gradients at (neutral ones, say); scores are means over them.
        differences: difference vectors of every emotion.
        metric: from the last token's logits ``[B, V]`` to one number for each row, or from those of one prompt,
            ``[1, V]``, to one number.
        tokens: gradients at the ``last`` prompt token, or summed over the ``prompt``.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.

    >>> import emotrace as et
    >>> model, data = et.load("bundled"), et.load_sev("sev-mini")
    >>> study = et.discover(model, data.train[:2])
    >>> asked = [reply.prompt_ids for reply in study.elicited.spread("neutral", 4)]
    >>> scores = et.gradient_scores(model, asked, study.differences, lambda logits: logits[:, 7] - logits[:, 8])
    >>> scores.heads.shape, scores.neurons.shape
    (torch.Size([6, 8, 16]), torch.Size([6, 8, 384]))

    Raises:
        DataError: no prompts, or a metric of another shape.
    """
    wrapped = as_model(model)
    ids = check_prompts(wrapped, prompts)
    _check_differences(wrapped, differences)
    found = component_gradients(
        wrapped, ids, metric=metric, tokens=tokens, batch_tokens=batch_tokens, ledger=ledger, name="gradients_metric"
    )
    heads = (found["heads"] * differences.last["heads"]).sum(-1)
    return Scores(differences.emotions, "gradient", heads, found["neurons"] * differences.last["neurons"])


def score_heads(
    model: Any,
    statistics: Statistics,
    directions: Directions,
    *,
    readout: str = "residual",
    samples: Sequence[Sample] = (),
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> torch.Tensor:
    """Analytic head scores, float64 ``[E, L, H]``: ``(W_O z) . v``, without a pass where no norm comes between.

    Arguments and errors are those of :func:`score_components`.
    """
    wrapped = as_model(model)
    check_readout(wrapped, readout)
    _check_measured(wrapped, statistics, directions)
    if wrapped.architecture.attn_norm or readout == "normed":
        options: dict[str, Any] = {"samples": samples, "batch_tokens": batch_tokens, "ledger": ledger}
        return _behind_norms(wrapped, statistics, directions, readout, **options)["heads"]
    rows = [statistics.conditions.index(emotion) for emotion in directions.emotions]
    return written(statistics.last["heads"][rows], directions_read_back(wrapped, "heads", directions.vectors[:, :, 0]))


def score_neurons(
    model: Any,
    statistics: Statistics,
    directions: Directions,
    *,
    samples: Sequence[Sample] = (),
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> torch.Tensor:
    """Analytic neuron scores, float64 ``[E, L, F]``: ``a (W_down . v)``, without a pass where no norm comes between.

    F is 0 for a mixture of experts. Arguments and errors are those of :func:`score_components`.
    """
    wrapped = as_model(model)
    _check_measured(wrapped, statistics, directions)
    rows = [statistics.conditions.index(emotion) for emotion in directions.emotions]
    activations = statistics.last["neurons"][rows]
    if wrapped.architecture.mlp_norm and wrapped.down_proj:
        options: dict[str, Any] = {"samples": samples, "batch_tokens": batch_tokens, "ledger": ledger}
        return _behind_norms(wrapped, statistics, directions, "residual", **options)["neurons"]
    return written(activations, directions_read_back(wrapped, "neurons", directions.vectors[:, :, 1]))


def _check_measured(model: Model, statistics: Statistics, directions: Directions) -> None:
    sizes = model.sizes
    for site, one in (("heads", sizes.shape("heads")), ("neurons", (sizes.neurons,))):
        check_shape(model, "statistics", statistics.last[site].shape[1:], (sizes.layers, *one))
    check_shape(model, "directions", directions.vectors.shape[1:], (sizes.layers, 2, sizes.width))
    missing = [emotion for emotion in directions.emotions if emotion not in statistics.conditions]
    if missing:
        raise DataError(f"the statistics hold no {missing[0]!r}; they hold {', '.join(statistics.conditions)}")


def _check_differences(model: Model, differences: Differences) -> None:
    sizes = model.sizes
    for site, one in (("heads", sizes.shape("heads")), ("neurons", (sizes.neurons,))):
        check_shape(model, "difference vectors", differences.last[site].shape[1:], (sizes.layers, *one))


def _behind_norms(
    model: Model,
    statistics: Statistics,
    directions: Directions,
    readout: str,
    *,
    samples: Sequence[Sample],
    batch_tokens: int,
    ledger: Ledger | None,
) -> dict[str, torch.Tensor]:
    """Scores that need a second pass over the samples of the emotions."""
    emotions = {statistics.conditions.index(name): e for e, name in enumerate(directions.emotions)}
    used = [sample for sample in samples if sample.condition in emotions]
    if not used:
        reason = "readout='normed'" if readout == "normed" else f"{model.architecture.name} norms what a sublayer adds"
        raise DataError(f"{reason}, so scores need a pass over the prompts: give samples=, those of the capture")
    return normed_scores(
        model,
        [sample.prompt for sample in used],
        [emotions[sample.condition] for sample in used],
        directions.vectors,
        readout=readout,
        batch_tokens=batch_tokens,
        ledger=ledger,
    )
