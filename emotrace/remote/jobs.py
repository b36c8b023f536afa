"""Which job belongs to which piece of work, so that a client that was killed collects what the server has finished."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from typing import Protocol

Key = tuple[str, int, str, str, int]
"""Ledger name, batch, part of the batch, place of the block in the sources, and which of the requests made there this
is: the same in every run of the same work."""


class Journal(Protocol):
    """Job ids by key, kept where they survive the process."""

    def find(self, key: Key, host: str) -> str | None:
        """The job that was submitted to ``host`` for this request, if any."""
        ...

    def keep(self, key: Key, host: str, job: str | None) -> None:
        """Write down a job, or that there is none any more, before anything else happens."""
        ...


@dataclass(frozen=True)
class Slot:
    """The batch that the present thread works on.

    Attributes:
        journal: where its jobs are kept.
        name: the ledger's name for the work.
        index: number of the batch.
        part: which rows of the batch, where it had to be cut.
    """

    journal: Journal
    name: str
    index: int
    part: str = ""
    _requests: Counter[tuple[str, str]] = field(default_factory=Counter)

    def next_key(self, place: str) -> Key:
        """The key of the next request that a block makes in this slot; ``place`` is its file and line."""
        number = self._requests[self.part, place]
        self._requests[self.part, place] += 1
        return self.name, self.index, self.part, place, number


_current: ContextVar[Slot | None] = ContextVar("slot", default=None)


def current() -> Slot | None:
    """The slot of the batch under way in this thread; None outside a journal."""
    return _current.get()


@contextmanager
def batch(journal: Journal, name: str, index: int) -> Iterator[None]:
    """Requests made inside belong to one batch of a ledger."""
    token = _current.set(Slot(journal, name, index))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def part(label: str) -> Iterator[None]:
    """Requests made inside belong to a part of the batch, so that a batch that is cut otherwise is not taken for it."""
    slot = _current.get()
    token = _current.set(None if slot is None else with_fields(slot, part=label))
    try:
        yield
    finally:
        _current.reset(token)
