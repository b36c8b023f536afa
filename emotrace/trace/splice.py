"""Components of one run put into another: at the last token, on a cached prefix, from the component's layer upward.

Every prompt (the base) has a partner, the same scenario's prompt under another condition. Both are run once; what
components do at the partner's last token is then put into the base's, many at once. Prompts of a pair may differ in
length: nothing is moved but activations of last tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import nnsight
import torch

from emotrace.trace.attribute import check_differentiable
from emotrace.trace.pairs import alone, both_ends, input_modules, moved_by, pair_inputs, rated, side, spread_cache
from emotrace.trace.sites import COMPONENT_SITES

if TYPE_CHECKING:
    from emotrace.ledger import Sums
    from emotrace.models.traced import Model
    from emotrace.trace.attribute import Metric
    from emotrace.trace.pairs import Job, Pair


def patched_shifts(
    model: Model,
    batches: Sequence[Sequence[Pair]],
    jobs: Sequence[Job],
    *,
    reference: torch.Tensor | None = None,
    metric: Metric | None = None,
    vectors: Mapping[str, torch.Tensor] | None = None,
    emotions: int,
) -> Sums:
    """Rise of a reading of the base prompt when single components take what they have at the partner's last token.

    Layers below a component's do not change, and no earlier token does, so a variant is the last token's suffix.

    Args:
        model: any model.
        batches: pairs of each batch.
        jobs: from :func:`jobs_of`.
        reference: ``[E, D]``; the reading of a pair is its last token's state after the final norm along its owner's.
        metric: in place of ``reference``, of the last token's logits.
        vectors: in place of partners, what is added: ``heads [E, L, H, d]``, ``neurons [E, L, F]``.
        emotions: E.

    Returns:
        float64 ``heads [E, L, H]`` and ``neurons [E, L, F]`` (F is 0 for a mixture of experts), summed over each
        owner's pairs; 0 where no job names the component.

    Raises:
        DataError: a prompt of fewer than two tokens, or a metric that gives something else than one number a row.
    """
    inputs, abreast = pair_inputs(model, batches, emotions)
    rows = sum(len(chosen) for _, _, chosen in jobs)
    model.count(patch_tokens=sum(i["count"] for i in inputs) + rows * sum(len(pairs) for pairs in batches))
    parts, blocks, final_norm, keep = (
        input_modules(model),
        model.blocks,
        model.final_norm,
        0 if abreast and metric else 1,
    )
    given = None if vectors is None else {site: values.double().cpu().flatten(2) for site, values in vectors.items()}
    sizes = {site: model.sizes.shape(site) for site in COMPONENT_SITES}
    totals = _nothing(model, emotions)
    with model.lock, model.session():
        sums = totals
        for each in inputs:
            ends = both_ends(model, each, parts, blocks, final_norm, reference, metric, given)
            for layer, site, chosen in jobs:
                delta = alone(ends["deltas"][layer][site], chosen, sizes[site][1])
                token, where, start = side(each, ends["starts"][layer], len(chosen), abreast)
                at, below = parts[layer][site], blocks[:layer]
                cache = spread_cache(ends["cache"], len(chosen), abreast)
                with model.trace(token, **where, past_key_values=cache, use_cache=True, logits_to_keep=keep):
                    with torch.no_grad():
                        for block in below:
                            block.skip(start)
                        values = at.input
                        values[:] = moved_by(values, delta)
                        seen = final_norm.output if metric is None else model.output.logits
                        shift = rated(seen, each["owners"], reference, metric) - ends["unmoved"]
                sums[site][:, layer, list(chosen)] += each["member"] @ shift
        found = nnsight.save(sums)
    made: Sums = found
    return made


def path_gradients(
    model: Model,
    batches: Sequence[Sequence[Pair]],
    jobs: Sequence[Job],
    nodes: torch.Tensor,
    weights: torch.Tensor,
    *,
    reference: torch.Tensor | None = None,
    metric: Metric | None = None,
    emotions: int,
) -> Sums:
    """Gradients along the way from the base's to the partner's activations of one site, times the way.

    Args:
        model: any model.
        batches: pairs of each batch.
        jobs: layers and sites; every component of each is moved at once.
        nodes: float64 ``[S]``, points between 0 (base) and 1 (partner).
        weights: float64 ``[S]``, of the points.
        reference: as for :func:`patched_shifts`.
        metric: as for :func:`patched_shifts`.
        emotions: E.

    Returns:
        As :func:`patched_shifts`.

    Raises:
        DataError: as :func:`patched_shifts`.
        ModelError: a server that gives no gradients.
    """
    steps = len(nodes)
    inputs, abreast = pair_inputs(model, batches, emotions)
    model.count(path_tokens=sum(i["count"] for i in inputs) + steps * len(jobs) * sum(len(pairs) for pairs in batches))
    parts, blocks, final_norm, keep = (
        input_modules(model),
        model.blocks,
        model.final_norm,
        0 if abreast and metric else 1,
    )
    sizes = {site: model.sizes.shape(site) for site in COMPONENT_SITES}
    totals = _nothing(model, emotions)
    with model.lock, model.session():
        sums = totals
        for each in inputs:
            ends = both_ends(model, each, parts, blocks, final_norm, reference, metric, None)
            for layer, site, _ in jobs:
                way = ends["deltas"][layer][site]
                delta = way[:, None] * nodes[:, None]
                token, where, start = side(each, ends["starts"][layer], steps, abreast)
                at, below = parts[layer][site], blocks[:layer]
                cache = spread_cache(ends["cache"], steps, abreast)
                with model.trace(token, **where, past_key_values=cache, use_cache=True, logits_to_keep=keep):
                    with torch.enable_grad():
                        for block in below:
                            block.skip(start)
                        values = at.input
                        point = moved_by(values, delta).detach().requires_grad_(True)
                        at.input = point
                        seen = final_norm.output if metric is None else model.output.logits
                        reading = rated(seen, each["owners"], reference, metric)
                        check_differentiable([reading])
                        slopes = torch.autograd.grad(reading.sum(), point)[0].double().cpu()
                mean = torch.einsum("bsw,s->bw", slopes.reshape(len(way), steps, -1), weights)
                sums[site][:, layer] += each["member"] @ (mean * way).unflatten(-1, sizes[site]).sum(-1)
        found = nnsight.save(sums)
    made: Sums = found
    return made


def _nothing(model: Model, emotions: int) -> Sums:
    """Sums of no pair."""
    shapes = {site: model.sizes.shape(site)[0] for site in COMPONENT_SITES}
    return {site: torch.zeros(emotions, model.sizes.layers, n, dtype=torch.float64) for site, n in shapes.items()}
