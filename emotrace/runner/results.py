"""What the stages of a run folder have left, as one stage may read it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from emotrace.artifacts import Artifact
from emotrace.errors import RunError
from emotrace.runner.cache import StageCache

Kind = TypeVar("Kind", bound=Artifact)


@dataclass(frozen=True)
class Results:
    """A run folder, read from one stage.

    Attributes:
        folder: the run folder.
        stage: name of the stage that reads.
        reachable: stages it may read beside its own: those it needs, and what they need.
    """

    folder: Path
    stage: str
    reachable: tuple[str, ...]

    @property
    def stage_folder(self) -> Path:
        return self.folder / "stages" / self.stage

    def open(self, stage: str, name: str, kind: type[Kind]) -> Kind:
        """The artifact ``name`` of a stage that this one needs."""
        return kind.load(self._of(stage) / f"{name}.safetensors")

    def records(self, stage: str, name: str) -> list[dict[str, Any]]:
        """Records ``name`` of a stage that this one needs."""
        path = self._of(stage) / f"{name}.jsonl"
        if not path.is_file():
            raise RunError(f"{path}: no such records; did stage {stage!r} write them?")
        with path.open(encoding="utf-8") as file:  # splitlines would cut at U+2028 too, which JSON leaves in a text
            return [json.loads(line) for line in file]

    def summary(self, stage: str) -> dict[str, Any]:
        """What a stage that this one needs returned."""
        return StageCache(self._of(stage)).result()

    def _of(self, stage: str) -> Path:
        if stage != self.stage and stage not in self.reachable:
            raise RunError(
                f"{self.stage} reads stage {stage!r} without needing it; write @protocol(needs=[..., {stage!r}])"
            )
        return self.folder / "stages" / stage
