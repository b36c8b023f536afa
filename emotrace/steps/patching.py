"""Scores from pairs of prompts, the same scenario with the emotion and without: patching, and gradients on the way."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from emotrace.data.concepts import NEUTRAL
from emotrace.errors import DataError, ModelError
from emotrace.ledger import Ledger, Sums
from emotrace.models.load import as_model
from emotrace.models.traced import Model
from emotrace.steps.components import Scores
from emotrace.steps.directions import Differences, Directions
from emotrace.trace.attribute import Metric, component_gradients
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.inputs import check_prompts, check_shape
from emotrace.trace.pairs import VARIANTS, Pair, jobs_of
from emotrace.trace.plan import Edit, Plan
from emotrace.trace.requests import Batches, folded
from emotrace.trace.splice import patched_shifts, path_gradients

ENDS = ("emotion", NEUTRAL)
STEPS = 8

Prompts = Mapping[str, Sequence[Sequence[int]]]
Chosen = Mapping[int, Sequence[int]]


def end_gradient_scores(
    model: Any,
    prompts: Prompts,
    directions: Directions,
    differences: Differences,
    *,
    end: str = "emotion",
    metric: Metric | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Scores:
    """Gradient times difference vector, the gradient taken at either end of the difference (attribution patching).

    Nanda 2023; Syed et al. 2023. At ``emotion``, each emotion's reading on its own prompts: to first order, the fall
    when the difference is taken away again. At ``neutral``, on neutral prompts: the rise when it is added. They differ
    where the model saturates in between, which :func:`integrated_gradient_scores` looks into. One forward pass of each
    prompt, and a backward pass (at ``neutral`` one for each emotion).

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        prompts: token ids for each emotion, or under ``"neutral"``.
        directions: whose reference directions the last token's final state is read along.
        differences: difference vectors.
        end: ``emotion`` or ``neutral``.
        metric: read in place of the projection, of the last token's logits (:func:`emotrace.gradient_scores`).
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.

    Raises:
        DataError: no prompts of some condition, an unknown end, or directions and differences that do not fit.
    """
    wrapped = as_model(model)
    if end not in ENDS:
        raise DataError(f"unknown end={end!r}: gradients are taken at {' or '.join(ENDS)} prompts")
    _check_directions(wrapped, directions)
    _check_differences(wrapped, directions, differences)
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "ledger": ledger}

    def mean_gradient(condition: str, reference: torch.Tensor) -> Sums:
        ids = check_prompts(wrapped, prompts.get(condition, ()))
        if not ids:
            raise DataError(f"gradients at end={end!r} need prompts of {condition!r}, and there are none")
        target: dict[str, Any] = {"reference": reference} if metric is None else {"metric": metric}
        return component_gradients(wrapped, ids, **target, **options, name=f"gradients_{end}_{condition}")

    if end == NEUTRAL:
        found = mean_gradient(NEUTRAL, directions.reference)
    else:
        each = [mean_gradient(name, directions.reference[e : e + 1]) for e, name in enumerate(directions.emotions)]
        found = {site: torch.cat([gradients[site] for gradients in each]) for site in ("heads", "neurons")}
    heads = (found["heads"] * differences.last["heads"]).sum(-1)
    return Scores(directions.emotions, f"gradient_{end}", heads, found["neurons"] * differences.last["neurons"])


def integrated_gradient_scores(
    model: Any,
    prompts: Prompts,
    directions: Directions,
    *,
    steps: int = STEPS,
    metric: Metric | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Scores:
    """Integrated gradients of every head and neuron, from the neutral prompt to the emotion's of the same scenario.

    What is interpolated: in the neutral run, all heads (or all neurons) of one layer together, at the last token, along
    the straight line from their activations z0 there to those of the emotion's run, z1; what is above them follows, and
    earlier tokens stay neutral. Then score = (z1 - z0) . mean gradient over the line,
    layer by layer and site by site. These are Sundararajan et al.'s (2017) integrated gradients with a layer's
    activations for the input (Captum's ``LayerIntegratedGradients``; the activation variant of EAP-IG, Hanna et al.
    2024). Inputs themselves cannot be interpolated: the two prompts differ in length, and end in the same token.

    Completeness holds within a layer and site: the scores add up to the change of the reading when all of them take
    their values of the emotion's run, up to the error of the quadrature (Gauss-Legendre with ``steps`` points, exact
    for gradients that are polynomials of degree 2 * steps - 1). They do not add up across layers, since a lower layer's
    effect runs through the higher ones, too.

    Cost for a pair of prompts: both are read once, then ``steps`` last tokens and one backward pass for each layer and
    site, from that layer upward behind a cached prefix.

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        prompts: token ids for each emotion and for ``"neutral"``: item i of each is of the same group.
        directions: whose reference directions the last token's state after the final norm is read along.
        steps: points on the line.
        metric: read in place of the projection, of the last token's logits: from ``[B, V]`` to one number a row.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.

    Raises:
        DataError: conditions without prompts or with another number of them, prompts of one token, or steps below 1.
        ModelError: a server that gives no gradients.
    """
    wrapped = as_model(model)
    _check_directions(wrapped, directions)
    pairs = _pairs(wrapped, prompts, directions.emotions, partners=True)
    if type(steps) is not int or steps < 1:
        raise DataError(f"steps={steps!r}: give a whole number from 1")
    points, shares = np.polynomial.legendre.leggauss(steps)
    nodes, weights = torch.tensor((points + 1) / 2), torch.tensor(shares / 2)
    jobs = [(layer, site, ()) for site in wrapped.sites for layer in range(wrapped.sizes.layers)]
    reading: dict[str, Any] = {"metric": metric} if metric else {"reference": directions.reference}

    def work(batches: Batches) -> Sums:
        chosen = [[pairs[row] for row in rows] for rows in batches]
        return path_gradients(wrapped, chosen, jobs, nodes, weights, emotions=len(directions.emotions), **reading)

    room = steps * len(jobs) if wrapped.remote else steps  # for a server the tokens of a whole request count
    lengths = [len(pair.base) + len(pair.partner) + room for pair in pairs]
    sums = folded(wrapped, f"integrated_{steps}", lengths, batch_tokens, work, ledger)
    count = len(prompts[NEUTRAL])
    return Scores(directions.emotions, "integrated_gradients", sums["heads"] / count, sums["neurons"] / count)


def patch_in_scores(
    model: Any,
    prompts: Prompts,
    directions: Directions,
    *,
    differences: Differences | None = None,
    heads: Chosen | None = None,
    neurons: Chosen | None = None,
    metric: Metric | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Scores:
    """Activation patching: how far the reading of neutral prompts rises when one component is the emotion's.

    In the neutral run a single component at the last token takes its value of the emotion's run of the same group
    (denoising, Meng et al. 2022, Heimersheim and Nanda 2024), or with ``differences`` has the emotion's difference
    vector added. Whatever is above it follows. The score is the mean rise over prompts of the projection of the last
    token's state, after the final norm, on the reference direction. Components are edited where they are read, in front
    of the projection, so norms behind a sublayer (Gemma 2 and 3, OLMo 2) are passed through like everything else.

    Cost for a pair of prompts: both are read once, then one last token for each component, from its layer upward behind
    a cached prefix: on average half the layers for one token.

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        prompts: token ids for each emotion and for ``"neutral"``: item i of each is of the same group. With
            ``differences`` only ``"neutral"`` is needed.
        directions: whose reference directions are read along.
        differences: difference vectors to add, in place of values of the emotion's prompts.
        heads: indices per layer; all by default, none for an empty mapping.
        neurons: the same.
        metric: read in place of the projection, of the last token's logits: from ``[B, V]`` to one number a row.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.

    >>> import emotrace as et
    >>> model, data = et.load("bundled"), et.load_sev("sev-mini")
    >>> study = et.discover(model, data.train[:2])
    >>> group = et.groups(data.validation)[0]
    >>> asked = {c: model.encode([et.prompt(group, c, et.PAPER_SIX)]) for c in study.elicited.conditions}
    >>> et.patch_in_scores(model, asked, study.directions, neurons={}).heads.shape
    torch.Size([6, 8, 16])

    Returns:
        Scores; minus infinity for a component that was not asked for, so that it ranks last.

    Raises:
        DataError: conditions without prompts or with another number of them, prompts of one token, nothing to patch.
        ModelError: neurons of a mixture of experts.
        PlanError: a component that the model lacks.
    """
    wrapped = as_model(model)
    _check_directions(wrapped, directions)
    if differences is not None:
        _check_differences(wrapped, directions, differences)
    pairs = _pairs(wrapped, prompts, directions.emotions, partners=differences is None)
    components = _components(wrapped, {"heads": heads, "neurons": neurons})
    jobs = jobs_of(components)
    if not jobs:
        raise DataError("nothing to patch: name heads or neurons")
    reading: dict[str, Any] = {"metric": metric} if metric else {"reference": directions.reference}
    vectors = None if differences is None else differences.last

    def work(batches: Batches) -> Sums:
        chosen = [[pairs[row] for row in rows] for rows in batches]
        return patched_shifts(wrapped, chosen, jobs, vectors=vectors, emotions=len(directions.emotions), **reading)

    # here memory is what counts, for a server the tokens of a whole request
    room = sum(len(c) for _, _, c in jobs) if wrapped.remote else min(VARIANTS, max(len(c) for _, _, c in jobs))
    lengths = [len(pair.base) + len(pair.partner) + room for pair in pairs]
    sums = folded(wrapped, "patched" if differences is None else "pushed", lengths, batch_tokens, work, ledger)
    found = {}
    for site, rises in sums.items():
        found[site] = torch.full_like(rises, float("-inf"))
        for layer, indices in components.get(site, {}).items():
            found[site][:, layer, list(indices)] = rises[:, layer, list(indices)] / len(prompts[NEUTRAL])
    return Scores(directions.emotions, "patch_in", found["heads"], found["neurons"])


def _pairs(model: Model, prompts: Prompts, emotions: Sequence[str], *, partners: bool) -> list[Pair]:
    """A pair for each emotion and group; without partners the neutral prompt alone."""
    aligned = aligned_prompts(model, prompts, emotions if partners else ())
    return [
        Pair(e, tuple(base), tuple(aligned[emotion][at]) if partners else ())
        for e, emotion in enumerate(emotions)
        for at, base in enumerate(aligned[NEUTRAL])
    ]


def aligned_prompts(model: Model, prompts: Prompts, emotions: Sequence[str]) -> dict[str, list[list[int]]]:
    """Checked token ids of the neutral prompts and each emotion's, as many of each; raises ``DataError``."""
    if not isinstance(prompts, Mapping):
        raise DataError(f"prompts are a {type(prompts).__name__}; give a mapping from conditions to lists of token ids")
    aligned = {name: check_prompts(model, prompts.get(name, ())) for name in (NEUTRAL, *emotions)}
    for name, ids in aligned.items():
        if not ids or len(ids) != len(aligned[NEUTRAL]):
            raise DataError(
                f"{len(ids)} prompts of {name!r} beside {len(aligned[NEUTRAL])} neutral ones: give one of each for "
                "every group, in the same order"
            )
    return aligned


def _components(model: Model, chosen: Mapping[str, Chosen | None]) -> dict[str, dict[int, tuple[int, ...]]]:
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for site, asked in chosen.items():
        if site not in model.sites:
            if asked:
                raise ModelError(f"{model.architecture.name} has no {site}; it has {', '.join(model.sites)}")
            continue
        everything = {layer: range(model.sizes.shape(site)[0]) for layer in range(model.sizes.layers)}
        layers: Mapping[int, Sequence[int]] = everything if asked is None else asked
        found[site] = {layer: tuple(indices) for layer, indices in layers.items() if len(indices)}
    # a plan that does nothing names the same components, so its check is theirs
    Plan(tuple(Edit(site, layer, index) for site, held in found.items() for layer, index in held.items())).check(model)
    return found


def _check_directions(model: Model, directions: Directions) -> None:
    check_shape(model, "directions", directions.vectors.shape[1:], (model.sizes.layers, 2, model.sizes.width))


def _check_differences(model: Model, directions: Directions, differences: Differences) -> None:
    sizes = model.sizes
    for site, one in (("heads", sizes.shape("heads")), ("neurons", (sizes.neurons,))):
        check_shape(model, "difference vectors", differences.last[site].shape[1:], (sizes.layers, *one))
    if differences.emotions != directions.emotions:
        raise DataError(
            f"difference vectors are of {', '.join(differences.emotions)}, directions of "
            f"{', '.join(directions.emotions)}; take both from the same statistics"
        )
