"""Merging: the results of all shards of a run, added up in one folder as if it had been run there whole."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from emotrace.errors import RunError
from emotrace.runner.cache import STAGE, StageCache, changes, read_json
from emotrace.runner.execute import RunResult, run_protocol, stage_parts
from emotrace.runner.manifest import MANIFEST, restored
from emotrace.runner.protocol import assign, load_protocol, plan
from emotrace.runner.run import Inputs
from emotrace.runner.shards import Shard, as_shard, shard_name

OWN = ("shard", "needs")
"""Parts of keys in which shards differ; the keys of what a stage needs differ when parts of those stages do."""


@dataclass(frozen=True)
class ShardRun:
    """A finished run on a shard.

    Attributes:
        folder: its run folder.
        shard: which one it is.
        manifest: its manifest.
        parts: by stage, what the stage's key is made of.
    """

    folder: Path
    shard: Shard
    manifest: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]]


def merge_shards(
    folders: Sequence[str | Path],
    out: str | Path,
    inputs: Inputs | None = None,
    *,
    force: bool = False,
    console: Console | None = None,
) -> RunResult:
    """Add up a run's shards in the folder ``out``, whose stages then are those of a run without shards.

    Whatever the shards have not measured (directions' states, for pictures) is computed here. A later run in ``out``
    with the same inputs finds these stages finished and goes on.

    Args:
        folders: run folders of all shards, in any order.
        out: the merged run's folder.
        inputs: as the shards had them, without a shard; made from the shards' manifest by default, which a model, a
            judge or emotions in memory do not allow.
        force: merge again what is merged already.
        console: where progress is shown; nowhere by default.

    Raises:
        RunError: a folder that holds no finished shard, shards that are missing, given twice, or not of one run; code,
            data or model that have changed since; no ``inputs`` where they are needed.
    """
    runs = read_shards(folders, out)
    inputs = copy.copy(inputs) if inputs else shard_inputs(runs)
    if inputs.shard is not None:
        raise RunError(f"a merge is of all scenarios: give inputs without shard={shard_name(inputs.shard)}")
    made = runs[0].manifest
    load_protocol(made["inputs"]["protocol"])  # a file defines all its protocols
    parameters = {
        f"{stage}.{name}": value
        for stage, entry in made["stages"].items()
        for name, value in entry["parameters"].items()
    }
    _same_as_here(runs, made["asked"], parameters, inputs)
    inputs.merged = tuple(run.folder for run in runs)
    return run_protocol(made["asked"], out, inputs, parameters=parameters, force=force, console=console)


def shard_inputs(runs: Sequence[ShardRun]) -> Inputs:
    """The inputs of the shards, without a shard; raises ``RunError`` when they were objects in memory."""
    try:
        return restored(runs[0].manifest)
    except RunError as error:
        raise RunError(f"{runs[0].folder}: {error} (emotrace.runner.merge_shards)") from error


def read_shards(folders: Sequence[str | Path], out: str | Path) -> list[ShardRun]:
    """All shards of one run, in order.

    Raises:
        RunError: as :func:`merge_shards` says.
    """
    if isinstance(folders, str | Path):
        raise RunError(f"a list of run folders is merged, not {str(folders)!r}: give those of all shards")
    if not folders:
        raise RunError("nothing to merge: give the run folders of all shards")
    runs = [_read(Path(folder).resolve()) for folder in folders]
    if Path(out).resolve() in [run.folder for run in runs]:
        raise RunError(f"{out} is one of the shards: give another --out")
    first = runs[0]
    count = first.shard[1]
    by_shard: dict[Shard, Path] = {}
    for run in runs:
        name = shard_name(run.shard)
        if run.shard[1] != count:
            raise RunError(
                f"{run.folder} is shard {name}, {first.folder} is {shard_name(first.shard)}: "
                "give the shards of one run, cut into equally many"
            )
        if run.shard in by_shard:
            raise RunError(f"shard {name} is given twice: {by_shard[run.shard]} and {run.folder}; leave one out")
        by_shard[run.shard] = run.folder
    missing = [str(index) for index in range(1, count + 1) if (index, count) not in by_shard]
    if missing:
        several = f"shards {', '.join(missing[:-1])} and {missing[-1]} of {count} are"
        which = several if len(missing) > 1 else f"shard {missing[0]} of {count} is"
        raise RunError(f"{which} missing: give the folders of all {count} shards; run those that there are none of")
    runs.sort(key=lambda run: run.shard)
    for run in runs[1:]:
        _same(run, runs[0])
    return runs


def _read(folder: Path) -> ShardRun:
    """The finished shard in a folder."""
    made = read_json(folder / MANIFEST)
    begun = [StageCache(path.parent) for path in sorted(folder.glob(f"stages/*/{STAGE}"))]
    if not made and not begun:
        raise RunError(f"{folder}: not a run folder; a shard is what `emotrace run ... --shard I/N --out FOLDER` makes")
    stages = made.get("stages", {})
    unfinished = [cache.stage for cache in begun if not cache.finished(stages.get(cache.stage, {}).get("key"))]
    gone = [name for name in stages if name not in [cache.stage for cache in begun]]
    if not made or unfinished or gone:
        name = [*unfinished, *gone, "the run"][0]
        raise RunError(f"{folder}: {name} is unfinished; give the command of this run again, it goes on where it was")
    shard = made.get("inputs", {}).get("shard")
    if shard is None:
        raise RunError(f"{folder}: a run, but not on a shard; leave it out, or run it again with --shard")
    return ShardRun(
        folder, as_shard(shard), made, {name: StageCache(folder / "stages" / name).read()["parts"] for name in stages}
    )


def _same(run: ShardRun, first: ShardRun) -> None:
    """Raises ``RunError`` naming what was not the same for two shards."""
    if run.manifest["asked"] != first.manifest["asked"]:
        raise RunError(
            f"{run.folder} is a shard of {run.manifest['asked']!r}, {first.folder} of {first.manifest['asked']!r}: "
            "give shards of one protocol"
        )
    for stage, parts in run.parts.items():
        said = _difference(first.parts[stage], parts)
        if said:
            raise RunError(
                f"{run.folder} and {first.folder} are not shards of one run, {stage} differs in {said}: "
                "run one of them again, as the others were"
            )


def _same_as_here(runs: Sequence[ShardRun], asked: str, parameters: Mapping[str, Any], inputs: Inputs) -> None:
    """Raises ``RunError`` naming what is not as it was when the shards were run."""
    stages = plan(load_protocol(asked))
    values = assign(stages, parameters)
    for spec in stages:
        known, here = runs[0].parts.get(spec.name), stage_parts(spec, values[spec.name], inputs)
        said = "a stage that they lack" if known is None else _difference(known, here)
        if said:
            raise RunError(
                f"{spec.name} is not what it was when the shards were run ({said}): "
                "merge with what they were run with, or run them again"
            )


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Which parts of two keys differ, but for those that always do; empty when none does."""
    one, other = ({name: part for name, part in parts.items() if name not in OWN} for parts in (before, after))
    return changes(one, other).removeprefix("changed ")
