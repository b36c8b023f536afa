"""Component scores in closed form, and the ranking (README, The method).

A component's raw write is what it adds to its projection's output; zeroing it lowers the projection of the residual
stream on a direction by write . direction, where no norm follows the sublayer.
"""

from collections.abc import Callable

import torch

Weights = Callable[[int], torch.Tensor]
"""What the K components of a layer write with: ``[D, K, w]``, w the width of a component's activation. Asked for layer
by layer, so that no more than one layer's weights are held."""


def read_back(weights: Weights, directions: torch.Tensor) -> torch.Tensor:
    """Each layer's direction read back through each component's matrix, ``W[l, :, k]^T v[e, l]``.

    Args:
        weights: of each layer.
        directions: ``[E, L, D]``.

    Returns:
        ``[E, L, K, w]``.
    """
    layers = [torch.einsum("dkw,ed->ekw", weights(layer), directions[:, layer]) for layer in range(directions.shape[1])]
    return torch.stack(layers, 1)


def column_norms(weights: Weights, layers: int) -> torch.Tensor:
    """Norm of what each component of width 1 writes per unit of activation, ``[L, K]``."""
    return torch.stack([weights(layer)[..., 0].norm(dim=0) for layer in range(layers)])


def written(values: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """Write of each component along its layer's direction: ``(W[l, :, k] z[e, l, k]) . v[e, l]``.

    Args:
        values: ``[E, L, K, w]`` mean activations (or differences of means), or ``[E, L, K]`` where w is 1.
        read: ``[E, L, K, w]``, from :func:`read_back`.

    Returns:
        ``[E, L, K]``.
    """
    values = values if values.ndim == 4 else values[..., None]
    return (values * read).sum(-1)


def alignment(read: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Cosine of each component's write direction (w = 1) with the layer's, ``[E, L, K]``; blind to activations.

    Args:
        read: ``[E, L, K, 1]``, from :func:`read_back`.
        norms: ``[L, K]``, from :func:`column_norms`.
    """
    return read[..., 0] / norms.clamp(min=1e-300)


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
