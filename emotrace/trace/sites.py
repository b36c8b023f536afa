"""The places of a block that can be read and edited, in order of execution."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from emotrace.models.traced import Model

SITES = ("heads", "attn_out", "resid_attn", "neurons", "mlp_out", "resid_mlp")
COMPONENT_SITES = ("heads", "neurons")

Place = tuple[Any, str]
"""An nnsight module, and whether the site is its ``input`` or its ``output``."""


def place(model: Model, site: str, layer: int) -> Place:
    """Where a site of a layer is found.

    In a parallel architecture ``resid_attn`` is no tensor of its own: adding to it is adding to attention's output.
    """
    if site == "resid_attn" and model.architecture.parallel:
        site = "attn_out"
    modules, side = {
        "heads": (model.out_proj, "input"),
        "attn_out": (model.attn_out, "output"),
        "resid_attn": (model.middle, "input"),
        "neurons": (model.down_proj, "input"),
        "mlp_out": (model.mlp_out, "output"),
        "resid_mlp": (model.blocks, "output"),
    }[site]
    return modules[layer], side


def value(at: Place) -> Any:
    """The activation at a place; inside a trace, in order of execution."""
    module, side = at
    return module.input if side == "input" else module.output


Reading = tuple[dict[str, Place], Any]
"""Some sites of one layer, to be read inside a trace in one go: the places by site, in order of execution, and the
block where ``resid_attn`` has to be computed from its input (else None)."""


def values_at(read: Reading, at: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values of every site at (rows, columns) of ``[B, T]``, copied, on the layer's device."""
    places, block = read
    start = None if block is None else taken(block.input, at)
    found = {site: taken(value(where), at) for site, where in places.items()}
    if start is not None:
        found["resid_attn"] = start + found["resid_attn"]
    return found


def taken(values: torch.Tensor, at: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """``values [B, T, W]`` at (rows, columns), copied, on the device of ``values``."""
    rows, columns = at
    return values[rows.to(values.device), columns.to(values.device)]


def reading(model: Model, layer: int, sites: Collection[str]) -> Reading:
    """How to read ``sites`` of a layer; those that the model lacks are left out."""
    places = {s: place(model, s, layer) for s in SITES if s in sites and (s != "neurons" or model.down_proj)}
    derived = "resid_attn" in places and model.architecture.parallel
    return places, model.blocks[layer] if derived else None
