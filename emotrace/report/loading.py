"""What a run folder holds, read for the report: summary, manifest, records, states."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from emotrace.errors import RunError
from emotrace.steps.separation import States

REPORT_FOLDER = Path(__file__).parent
_CODE_SUFFIXES = {".py", ".j2", ".css", ".js"}


@dataclass(frozen=True)
class RunFiles:
    """A run folder as the report reads it.

    Attributes:
        folder: the run folder.
        summary: ``summary.json``: stage -> its summary, and ``seconds``.
        manifest: ``manifest.json``, empty where the folder has none.
    """

    folder: Path
    summary: Mapping[str, Any]
    manifest: Mapping[str, Any]

    def has(self, stage: str) -> bool:
        """Whether the stage has a summary."""
        return isinstance(self.summary.get(stage), dict)

    def stage(self, name: str) -> Mapping[str, Any]:
        """The stage's summary; raises ``RunError`` when the folder has none."""
        if not self.has(name):
            raise RunError(f"{self.folder}: no stage {name!r}; compute it with: {self.command(name)}")
        value: Mapping[str, Any] = self.summary[name]
        return value

    def records(self, stage: str, name: str = "replies") -> list[dict[str, Any]]:
        """``stages/<stage>/<name>.jsonl``, empty where there is none; ``RunError`` names a line that is not JSON."""
        path = self.folder / "stages" / stage / f"{name}.jsonl"
        if not path.is_file():
            return []
        found = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise RunError(
                    f"{path}:{number}: not JSON ({error}); delete {path.parent} and run the stage again"
                ) from error
        return found

    def command(self, stage: str) -> str:
        """The command that computes ``stage`` into this folder."""
        name = self.manifest.get("model", {}).get("name", "bundled")
        return f"emotrace run {stage} --model {name} --out {self.folder}"

    @cached_property
    def emotions(self) -> tuple[str, ...]:
        """The study's emotions in order, from whichever stage names them."""
        if self.has("directions"):
            return tuple(self.summary["directions"]["emotions"])
        if self.has("circuit"):
            return tuple(self.summary["circuit"]["heads"])
        if self.has("control"):
            return tuple(next(iter(self.summary["control"]["arms"].values()))["by_emotion"])
        return ()


def load_run(folder: str | Path) -> RunFiles:
    """Read ``summary.json`` and ``manifest.json``; raises ``RunError`` when there is no summary or it is not JSON."""
    root = Path(folder)
    summary = root / "summary.json"
    if not summary.is_file():
        raise RunError(
            f"{summary}: no such file; run a protocol into this folder first: emotrace run paper --out {root}"
        )
    manifest = root / "manifest.json"
    return RunFiles(root, _json(summary), _json(manifest) if manifest.is_file() else {})


def load_states(run: RunFiles) -> States | None:
    """The states that the stage ``directions`` kept, None where there are none."""
    path = run.folder / "stages" / "directions" / "states.safetensors"
    if not path.is_file():
        return None
    return States.load(path)


def inputs_hash(folder: str | Path) -> str:
    """SHA-256 over everything the report is made of: the run's results and the report's own code and templates."""
    root = Path(folder)
    inputs = [path for name in ("summary.json", "manifest.json") if (path := root / name).is_file()]
    for pattern in ("stages/*/*.jsonl", "stages/directions/states.safetensors"):
        inputs += sorted(root.glob(pattern))
    code = sorted(path for path in REPORT_FOLDER.rglob("*") if path.suffix in _CODE_SUFFIXES)
    digest = sha256()
    for base, paths in ((root, inputs), (REPORT_FOLDER, code)):
        for path in paths:
            digest.update(f"{path.relative_to(base).as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({error}); delete it and run again") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: holds a {type(value).__name__}, not an object; delete it and run again")
    return value
