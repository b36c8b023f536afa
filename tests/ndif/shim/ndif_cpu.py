"""A model actor and a controller for the NDIF server that need no GPU; the rest of the server is as published.

Put this folder on the PYTHONPATH of every process of the server, and set NDIF_CONTROLLER_IMPORT_PATH to
`ndif_cpu.CPUControllerActor` and NDIF_DEFAULT_MODEL_ACTOR_CLASS to `ndif_cpu.CPUModelActor`, or to
`ndif_cpu.CPUSandboxActor`, which runs every block in a process of its own, as a server for untrusted users does.
"""

import importlib
import inspect
import time
from typing import Any

import ray
import torch
from ndif.common.metrics import ModelLoadTimeMetric
from ndif.common.telemetry import elapsed_ms
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.deployments.modeling.base import BaseModelDeployment
from ndif.services.ray.sandbox.model import SandboxModelDeployment
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import Remotable
from nnsight.modeling.transformers import _PREPROCESSORS, TransformersModel
from transformers.pipelines import check_task


def _do_without_cuda() -> None:
    """Make the calls that the actor puts around every request do nothing."""
    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda *arguments, **options: None
        torch.cuda.empty_cache = lambda *arguments, **options: None


def _accept_trust_remote_code(name: str) -> None:
    """ndif 0.1.2 passes `trust_remote_code` to two class methods which in nnsight 0.8.1 do not take it."""
    method = getattr(Remotable, name)
    parameters = inspect.signature(method).parameters.values()
    if any(p.kind is p.VAR_KEYWORD or p.name == "trust_remote_code" for p in parameters):
        return

    def without(cls: type, *arguments: Any, trust_remote_code: bool = False, **options: Any) -> Any:
        return method.__func__(cls, *arguments, **options)

    setattr(Remotable, name, classmethod(without))


def _loaded_preprocessors(self: Any) -> set[str]:
    """Which preprocessors the task's pipeline loads.

    transformers 5.23 names the pipeline's class by a dotted path, in which nnsight 0.8.1 looks for the class's
    attributes: finding none, it would build the model without a tokenizer.
    """
    try:
        implementation = check_task(self.task)[1]["impl"]
        if isinstance(implementation, str):
            module, _, name = implementation.rpartition(".")
            implementation = getattr(importlib.import_module(module), name)
    except Exception:
        return set(_PREPROCESSORS)
    return {name for name in _PREPROCESSORS if getattr(implementation, f"_load_{name}", False)}


_do_without_cuda()
_accept_trust_remote_code("describe_checkpoint")
_accept_trust_remote_code("max_tp_size")
TransformersModel._loaded_preprocessors = _loaded_preprocessors


class CPUModelDeployment(BaseModelDeployment):
    """Loads the model into main memory."""

    def load_from_disk(self) -> Any:
        started = time.time()
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device="cpu", **self.kwargs
        )
        model._module.requires_grad_(False)
        ModelLoadTimeMetric.update(
            model_key=self.model_key, duration_ms=elapsed_ms(started), load_type="initial", num_gpus=0
        )
        return model


class CPUSandboxDeployment(SandboxModelDeployment, CPUModelDeployment):
    """The same, with blocks run in another process."""

    async def run(self, request: Any) -> None:
        request.trusted = False  # without accounts, the API marks every request as trusted
        await super().run(request)


class CPUController(_ControllerActor):
    """The published controller, imported from here so that its process has the changes above."""


# Ray pickles a decorated class by value, and imports only its bases: hence a base in this module for each actor.
@ray.remote(num_cpus=0, max_restarts=-1)
class CPUModelActor(CPUModelDeployment):
    """The actor that serves one model."""


@ray.remote(num_cpus=0, max_restarts=-1)
class CPUSandboxActor(CPUSandboxDeployment):
    """The actor that serves one model, and runs blocks in another process."""


@ray.remote(num_cpus=0, num_gpus=0, max_restarts=-1, resources={"head": 1})
class CPUControllerActor(CPUController):
    """The actor that places models."""
