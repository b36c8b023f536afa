"""What a hosted model is, asked of its server in one small request: dtype, versions, slices of the projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import nnsight
import torch

if TYPE_CHECKING:
    from emotrace.models.traced import Model

FINGERPRINT_SLICE = 16


@dataclass(frozen=True)
class Probe:
    """A server's account of a model.

    Attributes:
        dtype: of the weights.
        torch: the server's version.
        slices: per layer, mean absolute value of a fixed slice of the output projections and of the down projections.
    """

    dtype: torch.dtype
    torch: str
    slices: tuple[list[float], list[float]]


def probe(model: Model) -> Probe:
    """Ask; raises ``HostedError`` as any request does."""
    projections, part = [model.out_proj, model.down_proj], FINGERPRINT_SLICE
    with model.session():
        found = nnsight.save({"torch": str(torch.__version__), "slices": []})
        for modules in projections:
            # the slice's mean is the same whether weights are kept as [out, in] or, transposed, as [in, out]
            found["slices"].append([m.weight[:part, :part].double().abs().mean().item() for m in modules])
        found["dtype"] = str(projections[0][0].weight.dtype)
    dtype = getattr(torch, str(found["dtype"]).removeprefix("torch."))
    out, down = found["slices"]
    return Probe(dtype, found["torch"], (out, down))
