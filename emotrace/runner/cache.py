"""Stage keys: when a stage's kept result may stand for a new computation, and why not when it may not."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from emotrace.artifacts import write_json
from emotrace.errors import RunError
from emotrace.runner.code import MODEL_FOLDER

STAGE, RESULT = "stage.json", "result.json"
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.bin",
    "*.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
)


@dataclass(frozen=True)
class StageCache:
    """One stage's folder, ``stages/<stage>`` in a run folder: what it was computed from, and whether it is finished."""

    folder: Path

    @property
    def stage(self) -> str:
        return self.folder.name

    def read(self) -> dict[str, Any]:
        """The stage's record: key, parts of the key, seconds, counters; empty when there is none."""
        return read_json(self.folder / STAGE)

    def result(self) -> dict[str, Any]:
        """The stage's summary; raises ``RunError`` when the stage has not finished."""
        if not (self.folder / RESULT).is_file():
            raise RunError(f"{self.folder}: stage {self.stage!r} has no result yet")
        return read_json(self.folder / RESULT)

    def finished(self, key: str | None = None) -> bool:
        """Whether a result is there, computed under ``key`` (any key when none is given)."""
        record = self.read()
        return bool(record.get("finished")) and key in (None, record["key"]) and (self.folder / RESULT).is_file()

    def begin(self, key: str, parts: Mapping[str, Any], *, afresh: bool) -> str:
        """Prepare the folder for computing under ``key`` and say why it is needed.

        Finished batches stay when they belong to ``key`` and ``afresh`` is false; otherwise the folder is emptied.
        """
        record = self.read()
        reason = changes(record.get("parts"), parts)
        if record.get("key") == key and not record["finished"] and not afresh:
            return "resumed"
        if afresh and record:
            reason = "forced"
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        write_json(self.folder / STAGE, {"stage": self.stage, "key": key, "finished": False, "parts": dict(parts)})
        return reason


def key_of(parts: Mapping[str, Any]) -> str:
    """Hash of everything that a stage's result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    """Which parts of a key differ, for people; empty when nothing was there before."""
    if not before:
        return ""
    named: list[str] = []
    for part in (*after, *(part for part in before if part not in after)):
        old, now = before.get(part), after.get(part)
        if old == now:
            continue
        if isinstance(now, Mapping) and isinstance(old, Mapping):
            inside = sorted(key for key in {*old, *now} if old.get(key) != now.get(key))
            named.append(f"{part}: {', '.join(inside[:3])}{' and others' if len(inside) > 3 else ''}")
        else:
            named.append(part)
    return f"changed {'; '.join(named)}" if named else ""


def model_key(name: str) -> dict[str, str]:
    """What stands for a model that is named: a hash of a folder's files, or the Hub id and its revision."""
    folder = MODEL_FOLDER / "weights" if name == "bundled" else Path(name)
    if name == "bundled" or folder.is_dir():
        return {"name": name, "sha256": folder_hash(folder)}
    return {"name": name, "revision": _revision(name)}


def folder_hash(folder: Path) -> str:
    """Hash of a model folder's weights, config and tokenizer files (names and contents)."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when the file is missing. Raises ``RunError`` naming a file that is damaged."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error}); delete it and run again") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: damaged (not a JSON object); delete it and run again")
    return value


def _revision(name: str) -> str:
    """Commit of a Hub model: the one in the cache, or else the one that its config comes with."""
    try:
        path = try_to_load_from_cache(name, "config.json")
        return Path(path if isinstance(path, str) else hf_hub_download(name, "config.json")).parent.name
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"no model {name!r}: neither 'bundled', nor a folder, nor found on the Hub ({reason})"
        ) from error
