"""Results on disk: tensors in safetensors, everything else as JSON in the file's metadata. Never a pickle."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from emotrace.errors import ArtifactError


class Artifact:
    """Base of frozen result dataclasses: ``save`` and ``load`` without loss.

    A field that holds a tensor, or a mapping of names to tensors, goes to safetensors; any other field must be JSON.
    JSON lists come back as tuples. Subclasses raise ``schema`` when a field changes its meaning.
    """

    schema: ClassVar[int] = 1

    def save(self, path: str | Path) -> Path:
        """Write to ``path`` (aside first, then renamed, so a kill leaves no partial file)."""
        tensors: dict[str, torch.Tensor] = {}
        plain: dict[str, Any] = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                tensors[field.name] = _owned(value)
            elif isinstance(value, Mapping) and value and all(isinstance(v, torch.Tensor) for v in value.values()):
                tensors |= {f"{field.name}/{key}": _owned(v) for key, v in value.items()}
                plain[field.name] = {"tensors": list(value)}
            else:
                plain[field.name] = value
        header = {"kind": type(self).__name__, "schema": self.schema, "fields": plain}
        target = Path(path)
        with written_aside(target) as aside:
            save_file(tensors, aside, metadata={"emotrace": json.dumps(header)})
        return target

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote; raises ``ArtifactError`` naming the file and what is wrong with it."""
        if not Path(path).is_file():
            raise ArtifactError(f"{path}: no such file")
        try:
            with safe_open(path, framework="pt") as handle:
                metadata = handle.metadata() or {}
                tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118  not a mapping
        except SafetensorError as error:
            raise ArtifactError(f"{path}: not a safetensors file ({error})") from error
        if "emotrace" not in metadata:
            raise ArtifactError(f"{path}: a safetensors file, but not one written by emotrace")
        try:
            header = json.loads(metadata["emotrace"])
            kind, schema, fields = header["kind"], header["schema"], dict(header["fields"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: its emotrace header is damaged ({error!r})") from error
        if kind != cls.__name__:
            raise ArtifactError(f"{path}: holds a {kind}, not a {cls.__name__}")
        if schema != cls.schema:
            raise ArtifactError(f"{path}: schema {schema} of {cls.__name__}, this version reads {cls.schema}")
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.name in tensors:
                values[field.name] = tensors[field.name]
            elif field.name not in fields:
                raise ArtifactError(f"{path}: field {field.name!r} of {cls.__name__} is missing")
            else:
                value = fields[field.name]
                if isinstance(value, dict) and set(value) == {"tensors"}:
                    gone = [key for key in value["tensors"] if f"{field.name}/{key}" not in tensors]
                    if gone:
                        raise ArtifactError(f"{path}: the tensor {gone[0]!r} of {field.name!r} is missing")
                    values[field.name] = {key: tensors[f"{field.name}/{key}"] for key in value["tensors"]}
                else:
                    values[field.name] = _tuples(value)
        return cls(**values)


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that replaces it when the block ends well, and vanishes when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(descriptor)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o644)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, aside and then renamed."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _owned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with memory of its own: safetensors refuses tensors that share any."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
