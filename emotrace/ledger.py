"""How long work is cut into batches that can be shown, stopped and taken up again.

Every step that runs a model hands its batches to a ledger. The one here keeps results in memory and shows progress;
the runner's keeps each finished batch on disk, so that a killed run never computes it twice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from tqdm.auto import tqdm

Batch = TypeVar("Batch")
Record = dict[str, Any]
Sums = dict[str, torch.Tensor]


class Ledger(Protocol):
    """Runs batches in order; results do not depend on whether earlier batches were computed in this process."""

    def map(self, name: str, batches: Sequence[Batch], work: Callable[[Batch], list[Record]]) -> list[Record]:
        """JSON records of every batch, in batch order. ``name`` is unique within a stage."""
        ...

    def fold(self, name: str, batches: Sequence[Batch], work: Callable[[Batch], Sums]) -> Sums:
        """Element-wise sum over batches, added in batch order, of named tensors (same names and shapes each time)."""
        ...


class MemoryLedger:
    """Keeps nothing; shows a progress bar for whatever takes more than two seconds."""

    def map(self, name: str, batches: Sequence[Batch], work: Callable[[Batch], list[Record]]) -> list[Record]:
        return [record for batch in tqdm(batches, desc=name, delay=2, leave=False) for record in work(batch)]

    def fold(self, name: str, batches: Sequence[Batch], work: Callable[[Batch], Sums]) -> Sums:
        total: Sums = {}
        for batch in tqdm(batches, desc=name, delay=2, leave=False):
            total = added(total, work(batch))
        return total


def added(total: Mapping[str, torch.Tensor], part: Sums) -> Sums:
    """``total + part`` by name; an empty total is zero. Raises ``ValueError`` when names differ."""
    if not total:
        return dict(part)
    if set(total) != set(part):
        raise ValueError(f"sums differ in names: {sorted(total)} against {sorted(part)}")
    return {key: total[key] + part[key] for key in total}
