"""What a hosted model is, asked of its server in one small request: dtype, slices of the projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import nnsight
import torch

from emotrace.models.matrix import linear, matrix_columns

if TYPE_CHECKING:
    from emotrace.models.traced import Model

FINGERPRINT_SLICE = 16


@dataclass(frozen=True)
class Probe:
    """A server's account of a model.

    Attributes:
        dtype: of the weights.
        slices: per layer, mean absolute value of a fixed slice of the output projections and, but for a mixture of
            experts, of the down projections.
    """

    dtype: torch.dtype
    slices: tuple[list[float], ...]


def probe(model: Model) -> Probe:
    """Ask; raises ``HostedError`` as any request does."""
    count, embeddings, ids = FINGERPRINT_SLICE, model.embeddings, torch.tensor([[model.pad_token]])
    parts = [[linear(model, site, layer) for layer in range(model.sizes.layers)] for site in model.sites]
    chosen = torch.arange(count)
    with model.trace(ids, use_cache=False, logits_to_keep=1) as tracer:
        with torch.no_grad():
            like = embeddings.output
            found = nnsight.save({"dtype": str(like.dtype), "slices": []})
            for layers in parts:
                slices = []
                for part in layers:
                    slices.append(float(matrix_columns(part, chosen, like)[:count].abs().mean()))
                found["slices"].append(slices)
            tracer.stop()
    dtype = getattr(torch, str(found["dtype"]).removeprefix("torch."))
    return Probe(dtype, tuple(found["slices"]))
