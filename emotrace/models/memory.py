"""Whether a model's weights fit, told from its config before any of them is read."""

from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from emotrace.errors import ModelError

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def weights_bytes(config: Any, dtype: torch.dtype | str) -> int:
    """Bytes of a causal language model's parameters and buffers, tied ones counted once.

    Args:
        config: a transformers config; the model is built from it without memory for its weights.
        dtype: of the parameters, a torch dtype or its name; ``"auto"`` is the config's own, or float32. Buffers keep
            theirs.

    Raises:
        ValueError: transformers has no causal language model for the config.
    """
    size = dtype_of(config, dtype).itemsize
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() * (size if p.is_floating_point() else p.element_size()) for p in model.parameters())
    return int(parameters + sum(b.numel() * b.element_size() for b in model.buffers()))


def dtype_of(config: Any, dtype: torch.dtype | str) -> torch.dtype:
    """The torch dtype that ``dtype`` names; ``"auto"`` is the config's own, or float32 where it names none."""
    if dtype == "auto":
        # a config of several parts may name its dtype in the part that holds the text model only
        dtype = config.dtype or config.get_text_config().dtype or torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ModelError(f"no dtype {dtype!r}: use float32, bfloat16, float16 or float64")
    return found


def available_bytes(device: torch.device | str | None) -> int:
    """Bytes that new tensors can take.

    Args:
        device: None is the CPU; ``"auto"`` every GPU and the CPU together. On the CPU, what the system has free or what
            the process's control group (container, batch job) has left, whichever is less. A device that shares the
            CPU's memory counts as the CPU.

    Raises:
        RuntimeError or AssertionError: as torch does for a device that is not there.
    """
    if device == "auto":
        return _host_bytes() + sum(available_bytes(f"cuda:{index}") for index in range(torch.cuda.device_count()))
    place = torch.device("cpu" if device is None else device)
    if place.type != "cuda":
        return _host_bytes()
    free, _ = torch.cuda.mem_get_info(place)
    # what torch keeps for itself between tensors is free to new ones
    return int(free + torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place))


def refuse_if_too_large(
    name: str, config: Any, dtype: torch.dtype | str, device: torch.device | str | None = None
) -> None:
    """Raise ``ModelError`` when a model's weights cannot fit where they are to go.

    Weights that do fit may still leave too little for activations. A quantised checkpoint is not judged: its config
    does not say how many bytes it takes.

    Args:
        name: the model's name, for the error.
        config: a transformers config.
        dtype: as for :func:`weights_bytes`.
        device: as for :func:`available_bytes`. For a single GPU the CPU must have room too, because the weights are
            read there first.

    Raises:
        ModelError: they do not fit, or the device is not there; what is needed, what is free, and what to do instead.
    """
    try:
        free = {_place(device): available_bytes(device)}
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"cannot put {name!r} on {device!r}: {str(error).splitlines()[0]}") from error
    if getattr(config, "quantization_config", None) is not None:
        return
    if device != "auto" and _place(device) != "the CPU":
        free["the CPU, where weights are read first"] = available_bytes(None)
    needed = weights_bytes(config, dtype)
    for place, room in free.items():
        if needed > room:
            precise = dtype_of(config, dtype)
            raise ModelError(
                f"{name!r} does not fit: its weights need {readable(needed)} in {str(precise).removeprefix('torch.')}, "
                f"and {readable(room)} are free on {place}; {_remedies(precise, device)}"
            )


def readable(count: int) -> str:
    """Bytes in decimal units: ``1234567890`` is ``1.2 GB``.

    >>> readable(1_234_567_890), readable(93_000)
    ('1.2 GB', '0.1 MB')
    """
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _remedies(dtype: torch.dtype, device: torch.device | str | None) -> str:
    advice = []
    if dtype.itemsize > 2:
        advice.append(f'dtype="bfloat16" takes {"half" if dtype.itemsize == 4 else "a quarter"} of that')
    if device != "auto":
        advice.append('device="auto" spreads the layers over every GPU and the CPU\'s memory (needs accelerate)')
    advice.append("remote=True runs a model of the Hub on NDIF")
    return "; ".join(advice)


def _place(device: torch.device | str | None) -> str:
    if device == "auto":
        count = torch.cuda.device_count()
        return f"{count} GPU{'s' if count != 1 else ''} and the CPU" if count else "the CPU (there is no GPU)"
    kind = torch.device("cpu" if device is None else device).type
    return "the CPU" if kind == "cpu" else str(device)


def _host_bytes() -> int:
    return min([psutil.virtual_memory().available, *_cgroup_bytes(CGROUPS, OWN_CGROUPS)])


def _cgroup_bytes(mount: Path, own: Path) -> list[int]:
    """What each limit over this process leaves: its control group's and those of the groups above, versions 1 and 2.

    Args:
        mount: where control groups are mounted.
        own: the file with this process's groups, lines of ``number:controllers:path``.
    """
    if not own.is_file():
        return []
    left = []
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, limit, usage, cache = mount, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, usage, cache = (
                mount / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        else:
            continue
        group = top / path.strip("/")
        # inside a container the path may be the host's: whatever of it is missing here is passed over
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                left += _left(folder, limit, usage, cache)
    return left


def _left(folder: Path, limit: str, usage: str, cache: str) -> list[int]:
    try:
        allowed = (folder / limit).read_text().strip()
        used = int((folder / usage).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = int(statistics.get(cache, 0))
    except (OSError, ValueError):
        return []
    # the kernel gives up cached files before it refuses memory
    return [] if allowed == "max" else [max(0, int(allowed) - used + cached)]
