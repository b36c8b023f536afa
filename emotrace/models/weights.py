"""The numbers of a projection, wherever they are: on a device, or kept by accelerate in CPU memory or on disk."""

from typing import Any

import torch

from emotrace.errors import ModelError


def projection_weight(
    module: torch.nn.Module,
    *,
    name: str,
    transposed: bool = False,
    columns: torch.Tensor | slice | None = None,
    rows: slice | None = None,
) -> torch.Tensor:
    """A projection's weight, a copy.

    Args:
        module: a torch ``Linear``, or GPT-2's ``Conv1D`` with ``transposed=True``.
        name: the model's name, for the error.
        transposed: the module keeps ``[in, out]``.
        columns: int64 indices of inputs, or a slice of them; all by default. Only these leave the device.
        rows: a slice of outputs; all by default.

    Returns:
        float64 ``[out, in]`` on the CPU, contiguous.

    Raises:
        ModelError: the weight is not on this machine, or is stored quantised.
    """
    weight = _values(module, "weight", name)
    if weight is None:
        raise ModelError(f"{name!r}: a {type(module).__name__} has no weight; it is not a projection")
    if weight.ndim != 2 or not weight.is_floating_point() or weight.element_size() < 2:
        raise ModelError(
            f"the weights of {name!r} are stored quantised ({weight.dtype}, shape {tuple(weight.shape)}); scores need "
            "their values: load the model in bfloat16 or float32"
        )
    weight = weight.T if transposed else weight
    weight = weight if rows is None else weight[rows]
    weight = weight if columns is None else weight[:, columns]
    return weight.to("cpu", torch.float64, copy=True).contiguous()


def projection_bias(module: torch.nn.Module, *, name: str) -> torch.Tensor | None:
    """A projection's bias, a copy: float64 ``[out]`` on the CPU, or None where the module has none.

    Raises:
        ModelError: the bias is not on this machine.
    """
    bias = _values(module, "bias", name)
    return None if bias is None else bias.to("cpu", torch.float64, copy=True)


def _values(module: torch.nn.Module, attribute: str, name: str) -> torch.Tensor | None:
    values: torch.Tensor | None = getattr(module, attribute, None)
    if values is not None and values.is_meta:
        values = _offloaded(getattr(module, "_hf_hook", None), attribute)
        if values is None:
            raise ModelError(f"the weights of {name!r} are not on this machine; scores need them: load it locally")
    return None if values is None else values.detach()


def _offloaded(hook: Any, attribute: str) -> torch.Tensor | None:
    """What accelerate's hook would put into the module for its forward.

    Read from the hook's own map instead of through ``align_module_device``: that one changes the module, which a pass
    in another thread may be using.
    """
    for single in getattr(hook, "hooks", (hook,)):
        kept = getattr(single, "weights_map", None)
        if kept is not None:
            try:
                values: torch.Tensor = kept[attribute]
            except KeyError:
                continue
            return values
    return None
