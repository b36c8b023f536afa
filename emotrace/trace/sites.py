"""The places of a block that can be read and edited, in order of execution."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

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


@dataclass(frozen=True)
class Reading:
    """Some sites of one layer, to be read inside a trace in one go.

    Attributes:
        places: per site, in order of execution.
        start: the block, where ``resid_attn`` has to be computed from its input.
    """

    places: dict[str, Place]
    start: Any = None

    def values(self, at: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values of every site at (rows, columns) of ``[B, T]``, copied, on the layer's device."""
        start = None if self.start is None else taken(self.start.input, at)
        found = {site: taken(value(where), at) for site, where in self.places.items()}
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
    return Reading(places, model.blocks[layer] if derived else None)
