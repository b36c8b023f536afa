"""From a name, a folder, a Hugging Face model or an nnsight model to a :class:`~emotrace.models.traced.Model`."""

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from nnsight import TransformersModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from emotrace.errors import ModelError
from emotrace.models.memory import refuse_if_too_large
from emotrace.models.traced import Model, wrap
from emotrace.remote.connection import Ndif, as_ndif

BUNDLED = Path(str(resources.files("emotrace.models"))) / "bundled" / "weights"
BUNDLED_CIRCUIT = BUNDLED.parent / "circuit.safetensors"


def load(
    model: Any,
    *,
    tokenizer: Any = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    remote: bool | str | Ndif = False,
) -> Model:
    """A model ready to study.

    Args:
        model: ``"bundled"``, a folder, a Hub id, a Hugging Face model (give ``tokenizer=``), or an nnsight model,
            which is used as it is and never changed.
        tokenizer: for a Hugging Face model in memory.
        dtype: torch dtype or its name; the bundled model's default is float32, any other model's is its own. With
            ``remote`` the server decides, and one that holds the model in another dtype is refused.
        device: where to put the weights; ``"auto"`` lets accelerate place them.
        remote: run on NDIF; weights are not loaded here. True for the host that nnsight is configured for, its URL, or
            an :class:`emotrace.Ndif` with more settings. The model must be a Hub id, or your nnsight model of one.

    >>> load("bundled").sizes
    Sizes(layers=8, heads=16, key_value_heads=4, head_width=16, width=128, neurons=384, vocabulary=1280)

    Raises:
        ModelError: nothing loads under that name, the family is unknown, or options do not fit together.
    """
    if isinstance(model, Model):
        return model
    ndif = as_ndif(remote)
    if isinstance(model, str | Path):
        return _load_named(str(model), dtype, device, ndif)
    if dtype is not None or device is not None:
        raise ModelError("dtype= and device= apply to models loaded by name; set them on the model itself")
    if ndif and isinstance(model, torch.nn.Module):
        raise ModelError("a model in memory is not hosted anywhere; give its name on the Hub with remote=True")
    if hasattr(model, "trace") and hasattr(model, "_module"):
        if getattr(model, "tokenizer", None) is None:
            raise ModelError("the nnsight model has no tokenizer; build it with tokenizer=")
        return wrap(model, identity=_name_of(model._module), ndif=ndif)
    if isinstance(model, torch.nn.Module):
        if tokenizer is None:
            raise ModelError("a Hugging Face model in memory needs tokenizer=")
        wrapped = TransformersModel(model.eval(), tokenizer=tokenizer, task="text-generation")
        return wrap(wrapped, identity=_name_of(model))
    raise ModelError(f"cannot load a {type(model).__name__}: give a name, a folder, a Hugging Face or an nnsight model")


def as_model(model: Any) -> Model:
    """``model`` itself, or the :class:`Model` of the user's nnsight model: what lets every function take either.

    Making one takes about a millisecond; ``emotrace.load`` once, where that matters.

    Raises:
        ModelError: neither of the two, or an nnsight model without a tokenizer.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, str | Path | torch.nn.Module):
        raise ModelError(f"load it first: emotrace.load({model if isinstance(model, str) else 'model'!r})")
    return load(model)


def _load_named(
    name: str, dtype: torch.dtype | str | None, device: str | torch.device | None, ndif: Ndif | None
) -> Model:
    bundled = name == "bundled"
    source = str(BUNDLED) if bundled else name
    if bundled and not (BUNDLED / "config.json").is_file():
        raise ModelError(
            f"the bundled model is missing from {BUNDLED}; train it: python -m emotrace.models.bundled.train"
        )
    if ndif and device is not None:
        raise ModelError("with remote=True the server decides where the model is; leave device= out")
    if ndif and (bundled or Path(name).is_dir()):
        raise ModelError(f"{name!r} is on this machine; a server hosts models of the Hub, by their names: org/name")
    wanted = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if wanted is None:
        wanted = torch.float32 if bundled else "auto"
    if wanted != "auto" and not isinstance(wanted, torch.dtype):
        raise ModelError(f"no dtype {dtype!r}: use float32, bfloat16, float16 or float64")
    # None would make transformers ask on the terminal whether to run the repository's code
    safe = {"trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source, **safe)
        if not ndif:
            refuse_if_too_large(name, config, wanted, device)
        tokenizer = AutoTokenizer.from_pretrained(source, **safe)
        if ndif:
            nn = TransformersModel(source, tokenizer=tokenizer, task="text-generation")
        else:
            placement = {"device_map": "auto"} if device == "auto" else {}
            weights = AutoModelForCausalLM.from_pretrained(source, dtype=wanted, **safe, **placement)
    except ModelError:
        raise
    except Exception as error:  # transformers, tokenizers, safetensors and the Hub each raise errors of their own
        raise ModelError(f"cannot load {name!r}: {_reason(error)}") from error
    if ndif:
        model = wrap(nn, identity=name, ndif=ndif)
        if isinstance(wanted, torch.dtype) and model.dtype != wanted:
            raise ModelError(
                f"{ndif.url} holds {name!r} in {str(model.dtype).removeprefix('torch.')}, and "
                f"{str(wanted).removeprefix('torch.')} was asked for; leave dtype out to take the server's"
            )
        return model
    if device is not None and device != "auto":
        try:
            weights = weights.to(device)
        except (RuntimeError, AssertionError) as error:  # torch raises both for a device that is not there
            raise ModelError(f"cannot put {name!r} on {device!r}: {str(error).splitlines()[0]}") from error
    return wrap(TransformersModel(weights.eval(), tokenizer=tokenizer, task="text-generation"), identity=name)


def _reason(error: Exception) -> str:
    """What went wrong in one line; transformers' advice that does not apply here is left out."""
    text = str(error)
    if "trust_remote_code" in text:
        return (
            "its repository brings code of its own, which emotrace does not run; load it with transformers "
            "(trust_remote_code=True) and give that model and tokenizer= to emotrace.load"
        )
    if text.startswith("Unrecognized configuration class"):
        return "it is not a causal language model (AutoModelForCausalLM has none for its config)"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    # a first line that ends in a colon only announces the next
    line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return line if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {line}"


def _name_of(module: Any) -> str:
    return str(getattr(module.config, "_name_or_path", "") or type(module).__name__)
