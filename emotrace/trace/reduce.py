"""From activations to statistics, inside a block: what leaves it does not grow with prompts or tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from emotrace.trace.sites import values_at

if TYPE_CHECKING:
    from emotrace.trace.sites import Reading


def weighted(read: Reading, at: tuple[torch.Tensor, torch.Tensor], weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums of one layer's sites over tokens, float64 ``[G, W]``, and ``rms [G, 2]`` of both residual sites.

    Args:
        read: the layer's sites, residual ones among them.
        at: N tokens (rows, columns).
        weights: float64 ``[G, N]``.
    """
    values = {site: found.double() for site, found in values_at(read, at).items()}
    streams = (values["resid_attn"], values["resid_mlp"])
    values["rms"] = torch.stack([stream.square().mean(-1).sqrt() for stream in streams], -1)
    return {site: weights.to(found.device) @ found for site, found in values.items()}


def accumulated(
    total: list[dict[str, torch.Tensor]], part: list[dict[str, torch.Tensor]]
) -> list[dict[str, torch.Tensor]]:
    """``total + part``, layer by layer and site by site; an empty total is zero."""
    if not total:
        return part
    return [{site: mine[site] + theirs[site] for site in mine} for mine, theirs in zip(total, part, strict=True)]


def by_site(layers: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """``[G, L, ...]`` on the CPU, from ``[G, ...]`` of each layer."""
    return {site: torch.stack([layer[site].cpu() for layer in layers], 1) for site in layers[0]}


def both_streams(values: dict[str, torch.Tensor]) -> torch.Tensor:
    """Both residual sites of N tokens, float32 ``[N, 2, D]`` on the CPU."""
    return torch.stack([values["resid_attn"].float().cpu(), values["resid_mlp"].float().cpu()], 1)


def isometric(states: torch.Tensor) -> torch.Tensor:
    """``[N, ..., D]`` in coordinates ``[N, ..., min(N, D)]`` that keep all inner products over N, float32."""
    if len(states) >= states.shape[-1]:
        return states
    spread = states.double().movedim(0, -2)
    lower = torch.linalg.qr(spread.mT).R.mT
    return lower.movedim(-2, 0).float().contiguous()
