"""The ledger of a run folder: a finished batch is on disk before anything is made of it."""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from emotrace.artifacts import written_aside
from emotrace.errors import RunError
from emotrace.ledger import Batch, Record, Result, Sums, added, computed
from emotrace.remote import jobs

Counters = Mapping[str, float]
LOG = "computed.log"
BATCHES = "batches"
JOBS = "jobs.jsonl"


def _no_counters() -> Counters:
    return {}


def _unseen(name: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass
class DiskLedger:
    """A ``Ledger`` that keeps finished batches in a stage's folder, so that a killed run takes up where it was.

    A mapped name is one append-only file, a line per batch; a line cut short by a kill is dropped. A folded name is one
    safetensors file with the running sums and the number of batches in them, replaced after every batch. Both carry the
    stage's key, and are thrown away when it differs. ``computed.log`` gains a JSON line per batch computed, with its
    seconds and what the model counted. Results pass through the disk's format whether they come from there or not, and
    random generators are seeded per batch and after the last, so a resumed run equals an uninterrupted one bit for bit.
    ``jobs.jsonl`` beside the batches holds the ids of jobs submitted to a server, so that what it has finished is
    collected, not repeated.

    Attributes:
        folder: the stage's folder.
        key: the stage's key.
        seed: start of the per-batch seeds.
        watch: called with name, batches done, batches in all.
        counters: the model's running counters (tokens computed, bytes sent and received).
    """

    folder: Path
    key: str
    seed: int = 0
    watch: Callable[[str, int, int], None] = _unseen
    counters: Callable[[], Counters] = _no_counters
    _used: set[str] = field(default_factory=set)
    _counted: Counters = field(default_factory=dict)
    _since: float = 0.0

    @cached_property
    def journal(self) -> "JobFile":
        """Jobs of the stage."""
        return JobFile(self.folder / BATCHES / JOBS, self.key)

    def map(
        self, name: str, batches: Sequence[Batch], work: Callable[[Batch], list[Record]], *, workers: int = 1
    ) -> list[Record]:
        """JSON records of every batch, in batch order (``emotrace.ledger.Ledger.map``)."""
        path = self._claim(name, ".jsonl", len(batches))
        results, valid = self._lines(path, name, len(batches))
        with path.open("r+b" if valid else "wb") as file:
            file.truncate(valid)
            file.seek(valid)
            if not valid:
                _append(file, {"key": self.key, "batches": len(batches)})
            for index, records in self._computed(name, len(results), batches, work, workers):
                results.append(_append(file, {"batch": index, "records": records})["records"])
                self._log(name, index)
                self.watch(name, index + 1, len(batches))
        self._seed(name, len(batches))
        return [record for records in results for record in records]

    def fold(self, name: str, batches: Sequence[Batch], work: Callable[[Batch], Sums], *, workers: int = 1) -> Sums:
        """Sum over batches of named tensors, on the CPU, in batch order (``emotrace.ledger.Ledger.fold``)."""
        path = self._claim(name, ".safetensors", len(batches))
        total, done = self._sums(path, name, len(batches))
        for index, sums in self._computed(name, done, batches, work, workers):
            part = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in sums.items()}
            total = added(total, part)
            header = {"key": self.key, "batches": len(batches), "done": index + 1}
            with written_aside(path) as aside:
                save_file(total, aside, metadata={"ledger": json.dumps(header)})
            self._log(name, index)
            self.watch(name, index + 1, len(batches))
        self._seed(name, len(batches))
        return total

    def _computed(
        self, name: str, done: int, batches: Sequence[Batch], work: Callable[[Batch], Result], workers: int
    ) -> Iterator[tuple[int, Result]]:
        """Number and result of every batch from ``done`` on; jobs of a server are written down."""
        self._counted, self._since = dict(self.counters()), time.perf_counter()

        def one(index: int) -> tuple[int, Result]:
            if workers == 1:  # threads share the generators, and what they draw is drawn on the server
                self._seed(name, index)
            with jobs.batch(self.journal, name, index):
                return index, work(batches[index])

        return computed(range(done, len(batches)), one, workers)

    def _claim(self, name: str, suffix: str, count: int) -> Path:
        if name in self._used:
            raise RunError(f"{self.folder.name}: ledger name {name!r} used twice; each piece of work needs its own")
        self._used.add(name)
        path = self.folder / BATCHES / f"{quote(name, safe=' =,+')}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.watch(name, 0, count)
        return path

    def _lines(self, path: Path, name: str, count: int) -> tuple[list[list[Record]], int]:
        """Records of the finished batches in the file, and the bytes that hold them and the header."""
        results: list[list[Record]] = []
        valid = 0
        if not path.is_file():
            return results, valid
        with path.open("rb") as file:
            for number, line in enumerate(file):
                try:
                    entry = json.loads(line)
                except ValueError:
                    break  # cut short by a kill: that batch was not finished
                if not line.endswith(b"\n") or (number == 0 and entry.get("key") != self.key):
                    break
                if number == 0:
                    self._same_count(path, name, entry["batches"], count)
                else:
                    results.append(entry["records"])
                valid += len(line)
        self.watch(name, len(results), count)
        return results, valid

    def _sums(self, path: Path, name: str, count: int) -> tuple[Sums, int]:
        if not path.is_file():
            return {}, 0
        with safe_open(path, framework="pt") as handle:
            header = json.loads(handle.metadata()["ledger"])
            if header["key"] != self.key:
                return {}, 0
            self._same_count(path, name, header["batches"], count)
            total = {key: handle.get_tensor(key).clone() for key in handle.keys()}  # noqa: SIM118  not a mapping
        self.watch(name, header["done"], count)
        return total, header["done"]

    def _same_count(self, path: Path, name: str, kept: int, count: int) -> None:
        if kept != count:
            raise RunError(
                f"{path}: kept for {kept} batches, but {name!r} now has {count}. A protocol must cut the same work "
                "into the same batches every time; run with --force to start over"
            )

    def _seed(self, name: str, index: int) -> None:
        seed_generators(self.seed, self.folder.name, name, index)

    def _log(self, name: str, index: int) -> None:
        """What was spent since the last batch, so that batches which ran side by side count once."""
        counted, now = dict(self.counters()), time.perf_counter()
        counters, self._counted = difference(self._counted, counted), counted
        seconds, self._since = now - self._since, now
        entry = {"name": name, "batch": index, "seconds": round(seconds, 4), "counters": counters}
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class JobFile:
    """Jobs of a stage, one JSON line each, appended before anything waits for them; the last line of a key counts."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self._lock = threading.Lock()
        self._jobs: dict[jobs.Key, tuple[str, str | None]] = {}
        if path.is_file():
            with path.open("r+b") as file:
                text = file.read()
                file.truncate(text.rfind(b"\n") + 1)  # what a kill has cut short would spoil the line that follows
            for line in text[: text.rfind(b"\n") + 1].splitlines():
                entry = json.loads(line)
                if entry["stage"] == key:
                    name, index, part, place, number = entry["request"]
                    self._jobs[name, index, part, place, number] = (entry["host"], entry["job"])

    def find(self, key: jobs.Key, host: str) -> str | None:
        """The job of a request (``emotrace.remote.jobs.Journal.find``)."""
        with self._lock:
            known, job = self._jobs.get(key, ("", None))
        return job if known == host else None

    def keep(self, key: jobs.Key, host: str, job: str | None) -> None:
        """Write a job down (``emotrace.remote.jobs.Journal.keep``)."""
        with self._lock:
            self._jobs[key] = (host, job)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                _append(file, {"stage": self.key, "request": list(key), "host": host, "job": job})


def computed_batches(stage_folder: Path) -> list[dict[str, Any]]:
    """What ``computed.log`` says: name, batch, seconds and counters of every batch computed under the present key."""
    path = stage_folder / LOG
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def difference(before: Counters, after: Counters) -> dict[str, float]:
    """What was counted between two readings."""
    return {key: value - before.get(key, 0) for key, value in after.items()}


def seed_generators(*parts: object) -> None:
    """Seed torch's, numpy's and Python's global generators from a hash of ``parts``."""
    number = int.from_bytes(sha256(repr(parts).encode()).digest()[:4], "big")
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def _append(file: BinaryIO, entry: dict[str, Any]) -> dict[str, Any]:
    """Append one line and return it as a later reader will see it."""
    line = json.dumps(entry, ensure_ascii=False)
    file.write(line.encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())
    parsed: dict[str, Any] = json.loads(line)
    return parsed
