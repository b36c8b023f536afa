"""A server in this process: blocks are packed, unpacked where nothing of ours can be imported, and run on the model."""

import io
import linecache
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from nnsight.tracing.globals import BLOCKS, SOURCES
from nnsight.tracing.tracer import _saves, dec, inc, mark
from nnsight.tracing.util import push

from emotrace.models.traced import Model
from emotrace.remote.connection import Ndif
from emotrace.remote.wire import pack

OURS = ("emotrace", "protocols", "tests")


class LoopbackBackend(Backend):
    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, tracer: Any) -> None:
        blob = pack(tracer, self.model)
        with ThreadPoolExecutor(1) as apart:  # what is saved is noted by thread
            answer = apart.submit(served, blob, self.model.nn).result()
        connection = self.model.connection
        assert connection is not None
        connection.count(requests=1, bytes_sent=len(blob), bytes_received=len(answer))
        saved = torch.load(io.BytesIO(answer), map_location="cpu", weights_only=True)
        for value in saved.values():
            mark(value)
        push(tracer.info.frame, saved)


class HostedHere(Model):
    """A model that is reached only through a loopback."""

    def _routed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return partial(method, backend=LoopbackBackend(self))


def hosted_here(model: Model, **settings: Any) -> Model:
    """The same model, as if a server ran it."""
    ndif = Ndif("http://loopback", **({"jobs": 1} | settings))
    return HostedHere(model.nn, identity=model.identity, ndif=ndif)


def served(blob: bytes, nn: Any) -> bytes:
    """What a server does with a request (``ndif.services.ray.deployments.modeling.nns``)."""
    with without_ours(), own_sources():
        tracer = RequestModel.deserialize(blob, nn._remoteable_persistent_objects(), compress=True)
        inc()
        try:
            tracer.execute(tracer.info.code)
            saves = _saves()
            saved = {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in saves}
        finally:
            dec()
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return buffer.getvalue()


class _Refuse:
    """Finds nothing of ours."""

    def find_spec(self, name: str, *arguments: Any) -> None:
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"a server has no module {name!r}")


@contextmanager
def without_ours() -> Iterator[None]:
    """No module of this project is there, nor can be imported."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in OURS}
    refuse = _Refuse()
    sys.meta_path.insert(0, refuse)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(refuse)  # type: ignore[arg-type]
        assert not [name for name in sys.modules if name.partition(".")[0] in OURS]
        sys.modules.update(hidden)


@contextmanager
def own_sources() -> Iterator[None]:
    """Sources that the block brings are forgotten again, and those of this process are not seen."""
    caches: tuple[dict[Any, Any], ...] = (linecache.cache, SOURCES, BLOCKS)
    kept = [dict(cache) for cache in caches]
    for cache in caches[1:]:
        cache.clear()
    try:
        yield
    finally:
        for cache, content in zip(caches, kept, strict=True):
            cache.clear()
            cache.update(content)
