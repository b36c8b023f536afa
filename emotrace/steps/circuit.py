"""The emotion circuit: which components, with which difference vectors, for which model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np
import torch

from emotrace.artifacts import Artifact
from emotrace.errors import CircuitError, PlanError
from emotrace.formulas.budgets import largest_remainder
from emotrace.formulas.scores import ranking
from emotrace.models.architectures import Sizes
from emotrace.models.load import as_model
from emotrace.models.traced import Fingerprint
from emotrace.steps.components import Scores
from emotrace.steps.directions import Differences
from emotrace.steps.influence import Influence
from emotrace.trace import edits
from emotrace.trace.biases import with_biases
from emotrace.trace.edits import Values
from emotrace.trace.plan import Component, Plan
from emotrace.trace.tokens import Tokens

ALLOCATIONS = ("influence", "global", "uniform")
SITES = ("heads", "neurons")
SHARES = {"heads": 1 / 32, "neurons": 0.025}
"""Default budgets per emotion, as shares of a model's components."""


@dataclass(frozen=True)
class EmotionCircuit(Artifact):
    """Components and difference vectors of every emotion of a study.

    Attributes:
        emotions: E names.
        contrast: contrast of the difference vectors.
        budgets: components per emotion at ``heads`` and ``neurons``.
        allocation: how budgets were shared among sublayers.
        method: how components were scored.
        fingerprint: the model it belongs to.
        heads: per emotion, int64 ``[M, 2]`` of (layer, head).
        heads_last: per emotion, ``[M, d]`` difference vectors at the last prompt token.
        heads_reply: per emotion, ``[M, d]`` over reply tokens.
        neurons: per emotion, int64 ``[N, 2]`` of (layer, neuron).
        neurons_last: per emotion, ``[N, 1]``.
        neurons_reply: per emotion, ``[N, 1]``.
    """

    emotions: tuple[str, ...]
    contrast: str
    budgets: dict[str, int]
    allocation: str
    method: str
    fingerprint: dict[str, Any]
    heads: dict[str, torch.Tensor]
    heads_last: dict[str, torch.Tensor]
    heads_reply: dict[str, torch.Tensor]
    neurons: dict[str, torch.Tensor]
    neurons_last: dict[str, torch.Tensor]
    neurons_reply: dict[str, torch.Tensor]

    def components(self, site: str, emotion: str) -> list[Component]:
        """(layer, index) pairs of one emotion at ``heads`` or ``neurons``, in order of rank within each layer."""
        pairs = {"heads": self.heads, "neurons": self.neurons}[site][self._known(emotion)].tolist()
        return [(layer, index) for layer, index in pairs]

    def vectors(self, site: str, place: str, emotion: str) -> torch.Tensor:
        """Difference vectors ``[count, width]`` of one emotion at ``last`` or ``reply``."""
        values: dict[str, torch.Tensor] = getattr(self, f"{site}_{place}")
        return values[self._known(emotion)]

    def counts(self, site: str, emotion: str, layers: int) -> list[int]:
        """Components per layer."""
        totals = [0] * layers
        for layer, _ in self.components(site, emotion):
            totals[layer] += 1
        return totals

    def check(self, model: Any, *, allow_other_weights: bool = False) -> None:
        """Raise ``CircuitError`` when the circuit belongs to another model."""
        self.made_for.check(as_model(model).fingerprint, allow_other_weights=allow_other_weights)

    @property
    def made_for(self) -> Fingerprint:
        """Fingerprint of the circuit's model."""
        return Fingerprint(**self.fingerprint)

    def compile(
        self, model: Any, *, emotion: str, strength: float = 1.0, allow_other_weights: bool = False
    ) -> torch.nn.Module:
        """The Hugging Face model with an emotion's circuit driven for good: plain transformers, without nnsight.

        It computes what ``model`` does under ``add(circuit, emotion, strength=strength, tokens="all")``: biases of the
        output and down projections carry the vectors. Weights are shared with ``model``, which stays as it is.

        >>> import emotrace as et
        >>> model, circuit = et.load("bundled"), et.EmotionCircuit.load(et.BUNDLED_CIRCUIT)
        >>> angry = circuit.compile(model, emotion="anger")
        >>> type(angry).__name__, angry.lm_head.weight.data_ptr() == model.lm_head._module.weight.data_ptr()
        ('LlamaForCausalLM', True)

        Raises:
            CircuitError: the circuit has no such emotion, or belongs to another model.
            PlanError: a strength that is not finite.
            ModelError: weights that are not in this machine's memory, or are stored quantised.
        """
        plan = add(self, emotion, strength=strength, tokens="all", allow_other_weights=allow_other_weights)
        return with_biases(as_model(model), plan)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per component: emotion, site, layer, index, and the norm of its vector at the last token."""
        return [
            {"emotion": e, "site": site, "layer": layer, "index": index, "norm": float(vector.norm())}
            for e in self.emotions
            for site in SITES
            for (layer, index), vector in zip(self.components(site, e), self.vectors(site, "last", e), strict=True)
        ]

    def _known(self, emotion: str) -> str:
        if emotion not in self.emotions:
            raise CircuitError(f"the circuit has no {emotion!r}; it holds {', '.join(self.emotions)}")
        return emotion


def default_budgets(sizes: Sizes, heads: int | None = None, neurons: int | None = None) -> dict[str, int]:
    """Budgets per emotion: those given, else ``SHARES`` of the model's components, at least one where it has any."""
    given = {"heads": heads, "neurons": neurons}
    return {
        site: min(sizes.count(site), max(1, int(SHARES[site] * sizes.count(site)))) if budget is None else budget
        for site, budget in given.items()
    }


def assemble(
    model: Any,
    scores: Scores,
    influence: Influence,
    differences: Differences,
    *,
    heads: int,
    neurons: int,
    allocation: str = "influence",
) -> EmotionCircuit:
    """Share ``heads`` and ``neurons`` per emotion among sublayers and fill each share with the best components.

    ``influence``: in proportion to max(I, 0) of attention and of MLP sublayers, each normalised on its own;
    ``global``: the best components wherever they are; ``uniform``: equal shares. Scores, influence and differences must
    come from ``model``: they hold no fingerprint of their own, and the circuit takes the model's. Raises
    ``CircuitError`` when sizes differ, a budget does not fit, no influence is positive, or the allocation is unknown.
    """
    if allocation not in ALLOCATIONS:
        raise CircuitError(f"unknown allocation {allocation!r}: choose one of {', '.join(ALLOCATIONS)}")
    wrapped = as_model(model)
    sizes = wrapped.sizes
    scored = (*scores.heads.shape[1:], scores.neurons.shape[2])
    if scored != (sizes.layers, sizes.heads, sizes.neurons):
        raise CircuitError(
            f"the scores are of a model with {scored} layers, heads and neurons a layer, this one has "
            f"{(sizes.layers, sizes.heads, sizes.neurons)}; score it first (models of equal sizes are not told apart)"
        )
    budgets = {"heads": heads, "neurons": neurons}
    chosen = chosen_components(scores, influence, budgets, allocation)
    return from_components(wrapped, differences, chosen, budgets=budgets, allocation=allocation, method=scores.method)


def chosen_components(
    scores: Scores, influence: Influence, budgets: Mapping[str, int], allocation: str
) -> dict[str, dict[str, list[Component]]]:
    """What :func:`assemble` puts in a circuit: emotion -> site -> (layer, index) pairs."""
    return {
        emotion: {
            site: _fill(scores.at(site)[e], influence.values[e, :, sublayer].numpy(), budgets[site], allocation)
            for sublayer, site in enumerate(SITES)
        }
        for e, emotion in enumerate(scores.emotions)
    }


def from_components(
    model: Any,
    differences: Differences,
    chosen: Mapping[str, Mapping[str, list[Component]]],
    *,
    budgets: dict[str, int],
    allocation: str,
    method: str,
) -> EmotionCircuit:
    """A circuit of given components (``chosen[emotion][site]``) with their own difference vectors."""
    fields: dict[str, dict[str, torch.Tensor]] = {
        f"{site}{suffix}": {} for site in SITES for suffix in ("", "_last", "_reply")
    }
    for emotion, by_site in chosen.items():
        e = differences.emotions.index(emotion)
        for site in SITES:
            pairs = torch.tensor(by_site[site], dtype=torch.int64).reshape(-1, 2)
            fields[site][emotion] = pairs
            for place in ("last", "reply"):
                values: torch.Tensor = getattr(differences, place)[site][e]
                picked = values[pairs[:, 0], pairs[:, 1]]
                fields[f"{site}_{place}"][emotion] = picked if site == "heads" else picked[:, None]
    fingerprint = asdict(as_model(model).fingerprint)
    return EmotionCircuit(tuple(chosen), differences.contrast, budgets, allocation, method, fingerprint, **fields)


@overload
def add(
    source: EmotionCircuit,
    what: str,
    *,
    strength: float = 1.0,
    tokens: Tokens = "reply",
    allow_other_weights: bool = False,
) -> Plan: ...
@overload
def add(
    source: Values,
    what: str,
    *,
    strength: float = 1.0,
    later: Values | None = None,
    dims: Sequence[int] | None = None,
    tokens: Tokens = "reply",
) -> Plan: ...
def add(
    source: EmotionCircuit | Values,
    what: str,
    *,
    strength: float = 1.0,
    later: Values | None = None,
    dims: Sequence[int] | None = None,
    tokens: Tokens = "reply",
    allow_other_weights: bool = False,
) -> Plan:
    """The plan that adds ``strength`` times a circuit's difference vectors of an emotion, or values of your own.

    Of a circuit, ``tokens="reply"`` uses the vectors of the last prompt token there and the reply's after it; ``"all"``
    and ``"generated"`` use the reply's alone; any other choice the last token's. The plan is refused by any model but
    the circuit's.

    Args:
        source: a circuit, or values by component as :func:`emotrace.set` takes them.
        what: the circuit's emotion, or the site of the values.
        strength: multiplies what is added; 0 is no edit, bit for bit.
        later: with values of your own at ``tokens="reply"`` or ``"all"``, other ones for reply tokens fed back.
        dims: with values of your own, only these coordinates of each component.
        tokens: where it acts.
        allow_other_weights: of a circuit: let any model of the same sizes take the plan.

    >>> import emotrace as et
    >>> model, circuit = et.load("bundled"), et.EmotionCircuit.load(et.BUNDLED_CIRCUIT)
    >>> event = "You keep a lamp near Yuki. Today Yuki broke the lamp."
    >>> reply = et.generate(model, event, plan=et.add(circuit, "anger", strength=1.0))
    >>> reply != et.generate(model, event)
    True

    Raises:
        CircuitError: the circuit has no such emotion.
        PlanError: values, site and options do not fit together.
    """
    if not isinstance(source, EmotionCircuit):
        if allow_other_weights:
            raise PlanError("allow_other_weights= is for circuits; values of your own are tied to no model")
        return edits.add(source, what, strength=strength, later=later, dims=dims, tokens=tokens)
    if later is not None or dims is not None:
        raise PlanError("later= and dims= are for values of your own; a circuit brings its own vectors")
    plan = Plan(made_for=() if allow_other_weights else (source.made_for,))
    for site in SITES:
        components = source.components(site, what)
        first, after = (source.vectors(site, place, what) for place in ("last", "reply"))
        if tokens in ("all", "generated"):
            first = after
        plan = plan + edits.add(
            dict(zip(components, first, strict=True)),
            site,
            strength=strength,
            later=dict(zip(components, after, strict=True)) if tokens == "reply" else None,
            tokens=tokens,
        )
    return plan


def _fill(scores: torch.Tensor, influence: np.ndarray, budget: int, allocation: str) -> list[Component]:
    if type(budget) is not int or not 0 <= budget <= scores.numel():
        raise CircuitError(f"a budget of {budget} does not fit a model with {scores.numel()} such components")
    if allocation == "global":
        return [(layer, index) for layer, index in ranking(scores)[:budget].tolist()]
    layers, width = scores.shape
    weights = influence if allocation == "influence" else np.ones(layers)
    shares = largest_remainder(weights, budget, width)
    return [
        (layer, int(index))
        for layer in range(layers)
        for index in torch.argsort(scores[layer], descending=True, stable=True)[: int(shares[layer])]
    ]
