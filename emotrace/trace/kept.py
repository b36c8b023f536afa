"""Which components stay as they are while everything else is ablated, and how that travels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from emotrace.models.traced import Model
    from emotrace.trace.plan import Component


@dataclass(frozen=True)
class Kept:
    """Components that are left as they are; everything else is ablated.

    Attributes:
        components: (layer, index) pairs by site; a site that is not named keeps none.
        outside: the other way round: the components named are ablated, everything else is left.
    """

    components: Mapping[str, Sequence[Component]]
    outside: bool = False


Variant = Sequence[Sequence[Kept]]
"""Draws, each with what is kept for the prompt of every emotion; groups take the draws in turn."""

NOTHING, EVERYTHING = Kept({}), Kept({}, outside=True)

Chosen = tuple[torch.Tensor, list[list[torch.Tensor]], list[bool]]
"""Of J distinct sets: the one of each row ``[B]``; by site and set the places named, layer * K + index; which of the
sets are named by what they lack."""


def chosen(model: Model, variant: Variant, rows: Sequence[int], emotions: int) -> Chosen:
    """What each prompt of some groups keeps, as places: a server is sent no masks."""
    kept = [variant[row % len(variant)][e] for row in rows for e in range(emotions)]
    distinct = {id(part): part for part in kept}
    order = {key: n for n, key in enumerate(distinct)}
    places = [
        [_places(part.components.get(site, ()), model.sizes.shape(site)[0]) for part in distinct.values()]
        for site in model.sites
    ]
    return torch.tensor([order[id(part)] for part in kept]), places, [part.outside for part in distinct.values()]


def _places(components: Sequence[Component], count: int) -> torch.Tensor:
    pairs = torch.tensor(list(components), dtype=torch.int32).reshape(-1, 2)
    return pairs[:, 0] * count + pairs[:, 1]


def masks(which: Chosen, layers: int, counts: Sequence[int]) -> list[torch.Tensor]:
    """True where a component stays, layer by layer and site by site in order of execution: bool ``[B, K]``."""
    rows, named, outside = which
    by_site = []
    for places, count in zip(named, counts, strict=True):
        table = torch.zeros(len(outside), layers * count, dtype=torch.bool)
        for n, held in enumerate(places):
            table[n, held.long()] = True
            if outside[n]:
                table[n] = ~table[n]
        by_site.append(table[rows].unflatten(1, (layers, count)))
    return [site[:, layer] for layer in range(layers) for site in by_site]


def widened(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A mask over components, bool ``[B, K]``, for ``values [B, T, K * w]``: ``[B, 1, K * w]``."""
    return mask.to(values.device).repeat_interleave(values.shape[-1] // mask.shape[-1], -1)[:, None]
