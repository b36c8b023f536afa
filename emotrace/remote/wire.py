"""What a block is turned into before it is shipped: nnsight's payload, with our objects reduced to plain data.

A server has torch and nnsight, and nothing of ours. Functions of ours that a block calls travel as source, each with
the few names it uses; an object that has more to it than a server can hold says itself what stands for it, with
``__shipped__``.
"""

import dataclasses
import io
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import nnsight
import zstandard
from nnsight.intervention.serialization import DEFAULT_PROTOCOL, CustomCloudPickler, reduce_block
from nnsight.ndif import pull_env

PACKAGES = ("emotrace", "protocols")
LEVEL = 6


def pack(tracer: Any, model: Any) -> bytes:
    """The payload of a captured block, compressed (``nnsight.schema.request.RequestModel.serialize``, our pickler).

    Args:
        tracer: nnsight's, with the block's frame.
        model: the :class:`emotrace.Model` that it runs on; edits are compiled for it.
    """
    pull_env()  # the user's own modules, those that are not installed, travel as source too
    for package in PACKAGES:
        nnsight.register(package)
    frame = tracer.info.frame
    block = reduce_block(tracer.node, frame.f_globals, dict(frame.f_locals))
    buffer = io.BytesIO()
    _Pickler(buffer, model).dump((tracer, block))
    return zstandard.ZstdCompressor(level=LEVEL).compress(buffer.getvalue())


class ShippedPackage:
    """What ``emotrace`` is in a block on a server."""

    def __init__(self, apply):  # type: ignore[no-untyped-def]  # travels as source, where our types are unknown
        self.apply = apply

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        raise AttributeError(f"emotrace.{name}: a server has only emotrace.apply; call the rest before the block")


class _Pickler(CustomCloudPickler):
    def __init__(self, file: Any, model: Any) -> None:
        super().__init__(file, protocol=DEFAULT_PROTOCOL)
        self._model = model

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ModuleType) and obj.__name__ == "emotrace":
            return ShippedPackage, (obj.apply,)
        if isinstance(obj, FunctionType):
            stand_in = obj.__dict__.get("__shipped__")
            return super().reducer_override(obj if stand_in is None else stand_in)
        shipped = getattr(type(obj), "__shipped__", None)
        if shipped is not None:
            return shipped(obj, self._model)
        if dataclasses.is_dataclass(obj) and not isinstance(obj, type) and type(obj).__module__.startswith("emotrace."):
            fields = {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}
            return SimpleNamespace, (), fields
        return super().reducer_override(obj)
