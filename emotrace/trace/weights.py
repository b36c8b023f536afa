"""What components write, worked out where the weights are: here, or on the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import nnsight
import torch

from emotrace.formulas.scores import column_norms, read_back
from emotrace.models.matrix import columns_of, linear, matrix_columns
from emotrace.trace.adapting import Adaptive

if TYPE_CHECKING:
    from emotrace.models.matrix import Linear
    from emotrace.models.traced import Model

COLUMNS = 4096
"""Components of one product on a server, so that no more than these columns of a weight are held in float64."""

Write = tuple[str, Sequence[tuple[int, int]], torch.Tensor]
"""Site, K (layer, index) pairs, and activations ``[K, w]``."""


def directions_read_back(model: Model, site: str, directions: torch.Tensor) -> torch.Tensor:
    """Each component's matrix, transposed, times its layer's direction: ``W[:, k]^T v``.

    Args:
        model: any model.
        site: ``heads`` (columns of W_O) or ``neurons`` (columns of W_down).
        directions: ``[E, L, D]``.

    Returns:
        float64 ``[E, L, K, w]``; K is 0 for the neurons of a mixture of experts.
    """
    if model.remote and site in model.sites:
        found = _on_server(model, site, directions)["read"]
        return found.unflatten(-1, model.sizes.shape(site))
    return read_back(partial(model.write_weight, site), directions)


def write_sizes(model: Model, site: str) -> torch.Tensor:
    """Norm of what each component of width 1 writes per unit of activation, float64 ``[L, K]``."""
    if model.remote and site in model.sites:
        nothing = torch.zeros(1, model.sizes.layers, model.sizes.width, dtype=torch.float64)
        return _on_server(model, site, nothing)["norms"]
    return column_norms(partial(model.write_weight, site), model.sizes.layers)


def _on_server(model: Model, site: str, directions: torch.Tensor) -> dict[str, torch.Tensor]:
    """``read [E, L, C]`` and ``norms [L, C]``, in one request if the server has the time and memory for that."""

    def joined(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: torch.cat([one[name], other[name]], -2) for name in one}

    def work(layers: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return _layers_on_server(model, site, directions[:, list(layers)], layers)

    adaptive = Adaptive(work, joined, f"reading directions back through {site}", hosted=True)
    return adaptive(tuple(range(model.sizes.layers)))


def _layers_on_server(
    model: Model, site: str, directions: torch.Tensor, layers: Sequence[int]
) -> dict[str, torch.Tensor]:
    parts = [linear(model, site, layer) for layer in layers]
    columns, embeddings, ids = COLUMNS, model.embeddings, torch.tensor([[model.pad_token]])
    with model.trace(ids, use_cache=False, logits_to_keep=1) as tracer:
        with torch.no_grad():
            like = embeddings.output
            reads = []
            norms = []
            for at, part in enumerate(parts):
                read, norm = products(part, directions[:, at], columns, like)
                reads.append(read)
                norms.append(norm)
            found = nnsight.save({"read": torch.stack(reads, 1), "norms": torch.stack(norms)})
            tracer.stop()
    made: dict[str, torch.Tensor] = found
    return made


def products(
    part: Linear, directions: torch.Tensor, columns: int, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``directions [E, D]`` times the matrix ``[D, C]``, and the norms of its columns: float64 ``[E, C]``, ``[C]``."""
    reads, norms = [], []
    for chosen in torch.arange(part["inputs"]).split(columns):
        precise = matrix_columns(part, chosen, like)
        reads.append((directions.to(precise.device) @ precise).cpu())
        norms.append(precise.norm(dim=0).cpu())
    return torch.cat(reads, 1), torch.cat(norms)


def write_norms(model: Model, writes: Sequence[Write]) -> torch.Tensor:
    """Norm of the summed write of some components, layer by layer, float64 ``[len(writes), L]``.

    Biases belong to no component. On a hosted model all of them are one request.
    """
    terms = [_by_layer(*write) for write in writes]
    if not model.remote:
        norms = torch.zeros(len(writes), model.sizes.layers, dtype=torch.float64)
        for row, (site, layers) in enumerate(terms):
            for layer, indices, vectors in layers:
                weights = model.write_weight(site, layer, indices)
                norms[row, layer] = torch.einsum("dkw,kw->d", weights, vectors).norm()
        return norms
    asked = [
        (row, layer, linear(model, site, layer), columns_of(indices, model.sizes.shape(site)[1]), vectors.flatten())
        for row, (site, layers) in enumerate(terms)
        for layer, indices, vectors in layers
    ]
    shape = (len(terms), model.sizes.layers)
    embeddings, ids = model.embeddings, torch.tensor([[model.pad_token]])
    with model.trace(ids, use_cache=False, logits_to_keep=1) as tracer:
        with torch.no_grad():
            like = embeddings.output
            found = nnsight.save(torch.zeros(shape, dtype=torch.float64))
            for row, layer, part, columns, vectors in asked:
                weights = matrix_columns(part, columns, like)
                found[row, layer] = (weights @ vectors.to(weights.device)).norm().cpu()
            tracer.stop()
    made: torch.Tensor = found
    return made


def _by_layer(
    site: str, pairs: Sequence[tuple[int, int]], vectors: torch.Tensor
) -> tuple[str, list[tuple[int, list[int], torch.Tensor]]]:
    layers: dict[int, list[int]] = {}
    for at, (layer, _) in enumerate(pairs):
        layers.setdefault(layer, []).append(at)
    values = vectors.double().cpu()
    return site, [(layer, [pairs[at][1] for at in held], values[held]) for layer, held in sorted(layers.items())]
