"""Component scores in closed form, and the ranking (README, The method).

A component's raw write is what it adds to its projection's output; zeroing it lowers the projection of the residual
stream on a direction by write . direction, where no norm follows the sublayer.
"""

from collections.abc import Callable

import torch

Weights = Callable[[int], torch.Tensor]
"""What the K components of a layer write with: ``[D, K, w]``, w the width of a component's activation. Asked for layer
by layer, so that no more than one layer's weights are held."""


def written(values: torch.Tensor, weights: Weights, directions: torch.Tensor) -> torch.Tensor:
    """Write of each component along its layer's direction: ``(W[l, :, k] z[e, l, k]) . v[e, l]``.

    Args:
        values: ``[E, L, K, w]`` mean activations (or differences of means), or ``[E, L, K]`` where w is 1.
        weights: of each layer.
        directions: ``[E, L, D]``.

    Returns:
        ``[E, L, K]``.
    """
    values = values if values.ndim == 4 else values[..., None]
    layers = [
        torch.einsum("ekw,dkw,ed->ek", values[:, layer], weights(layer), directions[:, layer])
        for layer in range(values.shape[1])
    ]
    return torch.stack(layers, 1)


def alignment(weights: Weights, directions: torch.Tensor) -> torch.Tensor:
    """Cosine of each component's write direction (w = 1) with the layer's, ``[E, L, K]``; blind to activations."""
    layers = []
    for layer in range(directions.shape[1]):
        columns = weights(layer)[..., 0]
        layers.append(directions[:, layer] @ (columns / columns.norm(dim=0).clamp(min=1e-300)))
    return torch.stack(layers, 1)


def read_back(weights: Weights, directions: torch.Tensor) -> torch.Tensor:
    """Norm of the direction read back through each component's matrix, ``[E, L, K]``; blind to activations."""
    layers = [
        torch.einsum("dkw,ed->ekw", weights(layer), directions[:, layer]).norm(dim=-1)
        for layer in range(directions.shape[1])
    ]
    return torch.stack(layers, 1)


def ranking(scores: torch.Tensor) -> torch.Tensor:
    """Components by falling score, ties by (layer, index).

    Args:
        scores: ``[L, K]``.

    Returns:
        int64 ``[L * K, 2]`` of (layer, index).

    >>> ranking(torch.tensor([[0.5, 2.0], [2.0, -1.0]])).tolist()
    [[0, 1], [1, 0], [0, 0], [1, 1]]
    """
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    return torch.stack([order // scores.shape[1], order % scores.shape[1]], -1)
