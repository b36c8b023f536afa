"""A copy of a Hugging Face model that shares the original's numbers and nothing else."""

import copy
from functools import partial
from itertools import chain
from types import MethodType
from typing import Any, NoReturn

import torch

from emotrace.errors import ModelError

NNSIGHT_STATE, FORWARD, HOOK, UNDER_HOOK = "__nnsight__", "forward", "_hf_hook", "_old_forward"


def twin(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """A plain model of the same class whose parameters and buffers are views of the original's.

    What nnsight installed in the modules is left out; tied weights stay tied; accelerate's hooks, which move tensors
    between the devices of a spread model, stay. Moving or casting the twin leaves the original alone; training either
    in place changes both.

    Args:
        module: a Hugging Face model, used by nnsight or not.
        name: the model's name, for the error.

    Raises:
        ModelError: the weights are not in memory, or a module's ``forward`` was replaced (``torch.compile``).
    """
    parameters = {id(p): torch.nn.Parameter(p.detach(), p.requires_grad) for p in module.parameters()}
    buffers = {id(b): b.detach() for b in module.buffers()}
    if any(t.is_meta for t in chain(parameters.values(), buffers.values())):
        raise ModelError(f"the weights of {name!r} are not all in memory; load it on a machine that holds them")
    made = copy.deepcopy(module, {**parameters, **buffers})
    for path, part in made.named_modules():
        state = part.__dict__.pop(NNSIGHT_STATE, None)
        if state is not None:
            _restore(part, state.original, f"{name}: {path or 'the model'}")
    return made


def _restore(part: torch.nn.Module, original: Any, name: str) -> None:
    """Take nnsight's ``forward`` out of a copied module and put back what was there before nnsight."""
    forward, hook = part.__dict__.pop(FORWARD), part.__dict__.get(HOOK)
    nnsights = type(forward).__module__.partition(".")[0] == "nnsight"
    hooks_own = hook is not None and isinstance(forward, partial) and forward.func.__module__ == "accelerate.hooks"
    # a lambda is nnsight's own, around a forward that belongs to a module of the original
    if not (nnsights or hooks_own) or (hook is None and original.__name__ == "<lambda>"):
        raise ModelError(f"{name} has a forward of its own, which a copy would share (torch.compile?); undo it")
    if hook is not None:
        from accelerate.hooks import add_hook_to_module  # who has such a hook has accelerate, an optional package

        part.__dict__.pop(UNDER_HOOK, None)  # nnsight's, where the hook came later
        add_hook_to_module(part, hook)
    elif original is not type(part).forward:
        part.__dict__[FORWARD] = MethodType(original, part)


class Refusal:
    """A method that raises ``ModelError``; a class, so that a model that has one can be pickled."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise ModelError(self.why)


def unsavable(module: torch.nn.Module, why: str) -> None:
    """Make ``save_pretrained`` raise ``ModelError``, where it would write a model that loads as another."""
    module.__dict__["save_pretrained"] = Refusal(why)
