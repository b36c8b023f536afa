from pathlib import Path

import pytest

from emotrace.errors import RunError
from emotrace.runner import cache
from emotrace.runner.cache import changes, folder_hash, model_key


def model_folder(path: Path, weights: bytes = b"w") -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    (path / "tokenizer.json").write_text("{}")
    (path / "README.md").write_text("card")
    return path


def test_a_folder_s_key_is_its_weights_config_and_tokenizer(tmp_path: Path) -> None:
    one, same, other = (model_folder(tmp_path / name, w) for name, w in (("a", b"w"), ("b", b"w"), ("c", b"v")))
    (same / "README.md").write_text("another card")
    assert folder_hash(one) == folder_hash(same) != folder_hash(other)
    assert model_key(str(one)) == {"name": str(one), "sha256": folder_hash(one)}
    (same / "tokenizer_config.json").write_text("{}")
    assert folder_hash(one) != folder_hash(same)


def test_the_bundled_model_is_its_weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MODEL_FOLDER", tmp_path)
    weights = model_folder(tmp_path / "weights")
    assert model_key("bundled") == {"name": "bundled", "sha256": folder_hash(weights)}


def test_a_hub_id_is_known_by_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match="no model 'nobody/nothing': neither 'bundled', nor a folder, nor found"):
        model_key("nobody/nothing")
    fetched = tmp_path / "snapshots" / "4567cdef" / "config.json"
    with monkeypatch.context() as online:
        online.setattr(cache, "hf_hub_download", lambda name, file: str(fetched))
        assert model_key("nobody/nothing") == {"name": "nobody/nothing", "revision": "4567cdef"}
    snapshot = tmp_path / "models--nobody--nothing" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--nobody--nothing" / "refs").mkdir()
    (tmp_path / "models--nobody--nothing" / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_key("nobody/nothing")["revision"] == "0123abcd"
    with pytest.raises(RunError, match="no model 'no such/model/anywhere'"):
        model_key("no such/model/anywhere")


def test_changes_are_named_part_by_part() -> None:
    before = {"seed": 0, "code": {"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}, "parameters": {"k": 1}}
    assert changes(None, before) == ""
    assert changes(before, before) == ""
    assert changes(before, before | {"seed": 1, "parameters": {"k": 2}}) == "changed seed; parameters: k"
    assert changes(before, before | {"code": {"a": "1"}}) == "changed code: b, c, d and others"
