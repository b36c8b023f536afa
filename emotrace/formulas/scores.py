"""Component scores in closed form, and the ranking (README, The method).

A component's raw write is what it adds to its projection's output; zeroing it lowers the projection of the residual
stream on a direction by write . direction, where no norm follows the sublayer.
"""

import torch


def neuron_scores(activations: torch.Tensor, down: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Write of each neuron along its layer's direction: ``a[e, l, n] (W_down[l, :, n] . v[e, l])``.

    Args:
        activations: ``[E, L, F]`` mean activations (or differences of means).
        down: ``[L, D, F]``.
        directions: ``[E, L, D]``.

    Returns:
        ``[E, L, F]``.
    """
    return activations * torch.einsum("ldf,eld->elf", down, directions)


def head_scores(values: torch.Tensor, out: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Write of each head along its layer's direction: ``(W_O[l, :, h] z[e, l, h]) . v[e, l]``.

    Args:
        values: ``[E, L, H, d]`` mean head outputs (or differences of means).
        out: ``[L, D, H, d]``.
        directions: ``[E, L, D]``.

    Returns:
        ``[E, L, H]``.
    """
    return torch.einsum("elhk,ldhk,eld->elh", values, out, directions)


def neuron_alignment(down: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Cosine of each neuron's write direction with the layer's direction, ``[E, L, F]``; blind to activations."""
    return torch.einsum("ldf,eld->elf", down / down.norm(dim=1, keepdim=True), directions)


def head_alignment(out: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Norm of the direction read back through each head's output matrix, ``[E, L, H]``; blind to activations."""
    return torch.einsum("ldhk,eld->elhk", out, directions).norm(dim=-1)


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
