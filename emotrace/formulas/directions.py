"""Directions, difference vectors, sigma and the reference direction, from condition means (README, The method)."""

import torch

from emotrace.errors import DataError

STABLE = (0.75, 0.90)
STABLE_CENTRE = 0.825


def contrast_means(means: torch.Tensor, neutral: torch.Tensor | None) -> torch.Tensor:
    """Mean within-group difference per emotion.

    Args:
        means: ``[E, ...]`` mean activation of each emotion, over the same groups.
        neutral: ``[...]`` mean over the same groups' neutral prompts, or None to centre on the mean over emotions.

    Returns:
        ``[E, ...]``. Without ``neutral`` they sum to zero over emotions. Source: Wang et al. 2025, eqs. 1-2.
    """
    return means - (means.mean(0) if neutral is None else neutral)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors divided by their norms along the last axis; a zero vector raises ``DataError``."""
    norms = vectors.norm(dim=-1, keepdim=True)
    if bool((norms == 0).any()):
        raise DataError(
            "a difference is exactly zero: two conditions have equal means, as when their prompts are equal"
        )
    return vectors / norms


def stable_layers(layers: int) -> tuple[int, ...]:
    """Layers l with 0.75 <= (l + 1) / L <= 0.90; at least the one nearest 0.825.

    >>> stable_layers(28)
    (20, 21, 22, 23, 24)
    """
    depth = [(layer + 1) / layers for layer in range(layers)]
    chosen = tuple(layer for layer in range(layers) if STABLE[0] <= depth[layer] <= STABLE[1])
    return chosen or (min(range(layers), key=lambda layer: abs(depth[layer] - STABLE_CENTRE)),)


def reference_direction(directions: torch.Tensor, layers: tuple[int, ...]) -> torch.Tensor:
    """Normalised sum of both sublayers' unit directions over ``layers``, each sign-aligned with the first.

    Args:
        directions: ``[E, L, 2, D]`` unit directions.
        layers: the stable layers.

    Returns:
        ``[E, D]`` unit vectors.
    """
    chosen = directions[:, list(layers)].flatten(1, 2)
    signs = torch.where((chosen * chosen[:, :1]).sum(-1, keepdim=True) < 0, -1.0, 1.0).to(chosen)
    return unit((signs * chosen).sum(1))
