"""Columns of a projection's matrix inside a trace, wherever the block and the weights are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from emotrace.models.traced import Model

Linear = dict[str, Any]
"""What a block needs of one projection, as plain data: ``module``, ``transposed``, ``biased``, ``inputs`` (C)."""


def linear(model: Model, site: str, layer: int) -> Linear:
    """The output projection (``heads``) or down projection (``neurons``) of a layer."""
    module = {"heads": model.out_proj, "neurons": model.down_proj}[site][layer]
    count, width = model.sizes.shape(site)
    return {
        "module": module,
        "transposed": model.architecture.transposed,
        "biased": getattr(module._module, "bias", None) is not None,
        "inputs": count * width,
    }


def columns_of(components: Sequence[int], width: int) -> torch.Tensor:
    """Columns of the matrix that belong to components, ``width`` each: int64 ``[K * width]``."""
    return (torch.tensor(components, dtype=torch.int64)[:, None] * width + torch.arange(width)).flatten()


def matrix_columns(part: Linear, chosen: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Columns ``[D, K]`` of the matrix that a projection multiplies by, float64 on its device.

    A server that keeps blocks apart from the weights (a sandbox), or that stores them quantised, answers calls of the
    module instead: what it makes of a one-hot input is a column. A power of two keeps that exact and, where there is a
    bias, lets it matter little to rounding before the difference of both signs takes it away.

    Args:
        part: from :func:`linear`.
        chosen: K indices of columns.
        like: an activation read in this trace before, for its dtype and device.
    """
    module, inputs = part["module"], part["inputs"]
    weight = getattr(module, "weight", None)
    if weight is not None and weight.ndim == 2 and weight.is_floating_point() and weight.element_size() > 1:
        whole = weight.detach().T if part["transposed"] else weight.detach()
        return whole[:, chosen.to(whole.device)].double()
    size = 1024.0
    asked = torch.zeros(1, len(chosen), inputs, dtype=like.dtype, device=like.device)
    asked[0, torch.arange(len(chosen)), chosen] = size
    answer = module(asked)[0].double()
    if part["biased"]:
        answer = (answer - module(-asked)[0].double()) / 2
    return (answer / size).T
