"""Running a protocol: what it needs first, what is kept left alone, everything written to the run folder."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from emotrace.artifacts import write_json
from emotrace.errors import RunError
from emotrace.remote import jobs
from emotrace.runner.cache import RESULT, STAGE, StageCache, key_of
from emotrace.runner.code import code_hashes
from emotrace.runner.disk import BATCHES, DiskLedger, computed_batches, difference, seed_generators
from emotrace.runner.manifest import MANIFEST, manifest
from emotrace.runner.progress import Reporter, reporter
from emotrace.runner.protocol import ProtocolSpec, assign, load_protocol, plan
from emotrace.runner.run import Inputs, Run, strict_json

SUMMARY = "summary.json"


@dataclass(frozen=True)
class RunResult:
    """Where a run's results are and what had to be computed.

    Attributes:
        folder: the run folder.
        summary: what ``summary.json`` holds.
        computed: stages computed by this call.
        cached: stages found finished.
    """

    folder: Path
    summary: dict[str, Any]
    computed: tuple[str, ...]
    cached: tuple[str, ...]


def run_protocol(
    protocol: str | Path,
    out: str | Path,
    inputs: Inputs | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    force: bool = False,
    console: Console | None = None,
) -> RunResult:
    """Run a protocol and whatever it needs, taking finished stages and batches from the run folder.

    Args:
        protocol: a shipped protocol's name, or a ``.py`` file.
        out: the run folder; made when it is not there.
        inputs: model, data, judges, seed; the bundled model on sev-mini by default.
        parameters: values by name (of the protocol asked for) or ``stage.name``; text is read by the declared type.
        force: compute every stage again.
        console: where progress is shown; nowhere by default.

    Raises:
        RunError: unknown protocol or parameter, a run folder in use, a result that is not JSON, or a shard of stages
            that need all scenarios.
    """
    stages = plan(load_protocol(protocol))
    values = assign(stages, parameters or {})
    inputs = inputs or Inputs()
    if inputs.shard is not None:
        _refuse_whole(stages)
    _ = inputs.parts  # a dataset or model that cannot be found leaves no folder behind
    folder = Path(out).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make this folder ({error.strerror}); give another --out") from error
    watcher = reporter(console or Console(quiet=True))
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunError(f"{folder}: another run is writing there; wait for it, or give another --out") from error
    try:
        watcher.start([spec.name for spec in stages])
        return _run_stages(stages, values, folder, inputs, force, watcher)
    finally:
        watcher.stop()
        lock.release()


def _run_stages(
    stages: Sequence[ProtocolSpec],
    values: Mapping[str, Mapping[str, Any]],
    folder: Path,
    inputs: Inputs,
    force: bool,
    watcher: Reporter,
) -> RunResult:
    keys: dict[str, str] = {}
    reachable: dict[str, tuple[str, ...]] = {}
    computed: list[str] = []
    for spec in stages:
        name = spec.name
        reachable[name] = tuple(dict.fromkeys(n for need in spec.needs for n in (*reachable[need], need)))
        parts = stage_parts(spec, values[name], inputs) | {"needs": {need: keys[need] for need in spec.needs}}
        keys[name] = key_of(parts)
        cache = StageCache(folder / "stages" / name)
        if cache.finished(keys[name]) and not force:
            watcher.cached(name)
            continue
        watcher.computing(name, cache.begin(keys[name], parts, afresh=force))
        seconds = _compute(spec, values[name], cache, keys[name], reachable[name], folder, inputs, watcher)
        computed.append(name)
        watcher.done(name, seconds)
    names = [spec.name for spec in stages]
    summary = summarise(folder)
    write_json(folder / SUMMARY, summary)
    write_json(folder / MANIFEST, manifest(folder, inputs, stages[-1], names))
    return RunResult(folder, summary, tuple(computed), tuple(name for name in names if name not in computed))


def stage_parts(spec: ProtocolSpec, values: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
    """What a stage's key is made of, but for the keys of what it needs."""
    return {**inputs.parts, "parameters": json.loads(json.dumps(values)), "code": code_hashes(spec.source)}


def _refuse_whole(stages: Sequence[ProtocolSpec]) -> None:
    """Raises ``RunError`` when a stage cannot be run on a share of the scenarios."""
    whole = [spec.name for spec in stages if not spec.shards]
    if not whole:
        return
    shared = [spec.name for spec in stages if spec.shards]
    asked = stages[-1].name
    raise RunError(
        f"stage {whole[0]!r} needs all scenarios, not a shard of them. "
        + (
            f"Run {shared[-1]!r} on every shard, merge these, then run {asked!r} on the merged folder without a shard"
            if shared
            else f"Run {asked!r} without a shard"
        )
    )


def _compute(
    spec: ProtocolSpec,
    values: Mapping[str, Any],
    cache: StageCache,
    key: str,
    reachable: tuple[str, ...],
    folder: Path,
    inputs: Inputs,
    watcher: Reporter,
) -> float:
    """Compute one stage and return its seconds, those of earlier attempts' batches and of merged shards included."""
    before, start = inputs.counters(), time.perf_counter()
    earlier = computed_batches(cache.folder)
    watch = partial(watcher.batches, spec.name)
    inputs.listen(partial(watcher.server, spec.name))
    if inputs.ndif is not None:  # requests of another size are other batches; finished stages do not depend on it
        key = key_of({"stage": key, "request_tokens": inputs.ndif.request_tokens})
    ledger = DiskLedger(cache.folder, key, inputs.seed, watch, inputs.counters)
    seed_generators(inputs.seed, spec.name)
    with jobs.batch(ledger.journal, "", 0):  # requests made outside the ledger's batches are the stage's own
        run = Run(folder, spec.name, reachable, inputs, ledger)
        result = spec.function(run, **values)
    if not isinstance(result, dict):
        raise RunError(f"{spec.source}: {spec.name} must return a dict (its summary), not {type(result).__name__}")
    write_json(cache.folder / RESULT, json.loads(strict_json(result, f"what {spec.name} returned")))
    merged = [_origin(StageCache(shard.stage_folder).read()) for shard in run.shards]
    seconds = time.perf_counter() - start + sum(entry["seconds"] for entry in (*earlier, *merged))
    counters = difference(before, inputs.counters())
    for entry in (*earlier, *merged):
        for name, value in entry["counters"].items():
            counters[name] = counters.get(name, 0) + value
    record = {
        **cache.read(),
        "finished": True,
        "seconds": round(seconds, 3),
        "computed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "counters": counters,
        **({"merged": merged} if merged else {}),
    }
    write_json(cache.folder / STAGE, record)
    if (cache.folder / BATCHES).is_dir():
        shutil.rmtree(cache.folder / BATCHES)
    return seconds


def _origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a merged stage's record says of one shard's."""
    return {"shard": record["parts"]["shard"]} | {
        key: record[key] for key in ("key", "seconds", "computed", "counters")
    }


def summarise(folder: Path) -> dict[str, Any]:
    """Results of every finished stage of a run folder, and the seconds they took to compute.

    A stage computed from a stage that has been replaced since is left out.
    """
    caches = [StageCache(path) for path in sorted((folder / "stages").iterdir()) if path.is_dir()]
    records = {cache.stage: cache.read() for cache in caches if cache.finished()}
    while True:
        stale = [
            name
            for name, record in records.items()
            if any(records.get(need, {}).get("key") != key for need, key in record["parts"]["needs"].items())
        ]
        if not stale:
            break
        for name in stale:
            del records[name]
    ordered = sorted(records, key=lambda name: (records[name]["computed"], name))
    summary: dict[str, Any] = {name: StageCache(folder / "stages" / name).result() for name in ordered}
    return summary | {"seconds": round(sum(record["seconds"] for record in records.values()), 3)}
