"""How long work is cut into batches that can be shown, stopped and taken up again.

Every step that runs a model hands its batches to a ledger. The one here keeps results in memory and shows progress;
the runner's keeps each finished batch on disk, so that a killed run never computes it twice.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, Protocol, TypeVar

import torch
from tqdm.auto import tqdm

from emotrace.errors import Stopped

Batch = TypeVar("Batch")
Result = TypeVar("Result")
Record = dict[str, Any]
Sums = dict[str, torch.Tensor]


class Ledger(Protocol):
    """Runs batches; results do not depend on whether earlier batches were computed in this process.

    ``workers`` batches are under way at a time (1 for a model on this machine), results are taken in batch order.
    """

    def map(
        self, name: str, batches: Sequence[Batch], work: Callable[[Batch], list[Record]], *, workers: int = 1
    ) -> list[Record]:
        """JSON records of every batch, in batch order. ``name`` is unique within a stage."""
        ...

    def fold(self, name: str, batches: Sequence[Batch], work: Callable[[Batch], Sums], *, workers: int = 1) -> Sums:
        """Element-wise sum over batches, added in batch order, of named tensors (same names and shapes each time)."""
        ...


class MemoryLedger:
    """Keeps nothing; shows a progress bar for whatever takes more than two seconds."""

    def map(
        self, name: str, batches: Sequence[Batch], work: Callable[[Batch], list[Record]], *, workers: int = 1
    ) -> list[Record]:
        made = computed(batches, work, workers)
        return [record for records in _shown(name, made, len(batches)) for record in records]

    def fold(self, name: str, batches: Sequence[Batch], work: Callable[[Batch], Sums], *, workers: int = 1) -> Sums:
        total: Sums = {}
        for part in _shown(name, computed(batches, work, workers), len(batches)):
            total = added(total, part)
        return total


def added(total: Mapping[str, torch.Tensor], part: Sums) -> Sums:
    """``total + part`` by name; an empty total is zero. Raises ``ValueError`` when names differ."""
    if not total:
        return dict(part)
    if set(total) != set(part):
        raise ValueError(f"sums differ in names: {sorted(total)} against {sorted(part)}")
    return {key: total[key] + part[key] for key in total}


def computed(batches: Sequence[Batch], work: Callable[[Batch], Result], workers: int = 1) -> Iterator[Result]:
    """``work`` of each batch, in batch order, ``workers`` of them under way at a time.

    When the caller stops early, or a batch fails, batches not begun are dropped, and those under way give up at their
    next :func:`pause`.
    """
    if workers == 1:
        yield from map(work, batches)
        return
    stop = threading.Event()

    def stoppable(batch: Batch) -> Result:
        _stop.set(stop)
        return work(batch)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="emotrace")
    try:
        futures = deque(pool.submit(copy_context().run, stoppable, batch) for batch in batches)
        while futures:
            yield futures.popleft().result()  # and let it go, large as it may be
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def pause(seconds: float) -> None:
    """Sleep; raises ``Stopped`` as soon as the work that this thread belongs to is given up."""
    stop = _stop.get()
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise Stopped("given up")


_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


def _shown(name: str, results: Iterator[Result], total: int) -> Iterator[Result]:
    bar: Iterator[Result] = tqdm(results, desc=name, total=total, delay=2, leave=False)
    return bar
