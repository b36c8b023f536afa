import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

from emotrace.artifacts import Artifact, write_json, written_aside
from emotrace.errors import ArtifactError


@dataclass(frozen=True)
class Sample(Artifact):
    values: torch.Tensor
    by_name: dict[str, torch.Tensor]
    emotions: tuple[str, ...]
    settings: dict[str, Any]
    share: float | None = None


@dataclass(frozen=True)
class Other(Artifact):
    values: torch.Tensor


def sample() -> Sample:
    return Sample(
        torch.arange(6, dtype=torch.float64).reshape(2, 3).T / 7,
        {"b/c": torch.tensor([1, 2]), "a": torch.zeros((), dtype=torch.bfloat16)},
        ("anger", "fear"),
        {"layers": (1, 2), "nested": {"ü": None}},
    )


def test_nothing_is_lost(tmp_path: Path) -> None:
    before = sample()
    after = Sample.load(before.save(tmp_path / "deep" / "sample.safetensors"))
    assert torch.equal(after.values, before.values)
    assert after.values.dtype == torch.float64
    assert list(after.by_name) == ["b/c", "a"]
    assert all(torch.equal(after.by_name[key], before.by_name[key]) for key in before.by_name)
    assert after.by_name["a"].dtype == torch.bfloat16
    assert (after.emotions, after.settings, after.share) == (before.emotions, before.settings, None)


@pytest.mark.parametrize("empty", [{}, {"x": torch.ones(0)}])
def test_empty_mappings_and_tensors_come_back(tmp_path: Path, empty: dict[str, torch.Tensor]) -> None:
    after = Sample.load(replace(sample(), by_name=empty).save(tmp_path / "s.safetensors"))
    assert after.by_name.keys() == empty.keys()


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    after = Sample.load(replace(sample(), values=shared, by_name={"x": shared, "y": shared[1:]}).save(tmp_path / "s"))
    assert torch.equal(after.by_name["y"], shared[1:])


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = sample().save(tmp_path / "sample.safetensors")
    with pytest.raises(ArtifactError, match=r"sample\.safetensors: holds a Sample, not a Other"):
        Other.load(path)
    with pytest.raises(ArtifactError, match="no such file"):
        Sample.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        Sample.load(tmp_path / "text.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ArtifactError, match="not one written by emotrace"):
        Sample.load(tmp_path / "foreign.safetensors")
    header = {"kind": "Sample", "schema": 1, "fields": {}}
    save_file({"values": torch.ones(1)}, tmp_path / "short.safetensors", metadata={"emotrace": json.dumps(header)})
    with pytest.raises(ArtifactError, match="field 'by_name' of Sample is missing"):
        Sample.load(tmp_path / "short.safetensors")


def test_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sample().save(tmp_path / "sample.safetensors")
    newer: ClassVar[int] = 2
    monkeypatch.setattr(Sample, "schema", newer)
    with pytest.raises(ArtifactError, match="schema 1 of Sample, this version reads 2"):
        Sample.load(path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "kept.json"
    write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"a": float("nan")})

    def half() -> None:
        with written_aside(target) as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert json.loads(target.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]
