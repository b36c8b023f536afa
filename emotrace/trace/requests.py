"""From rows to batches to requests: what is computed together, kept together, and sent together.

A batch is one forward pass under the token budget. A request is what a ledger keeps as one piece: a batch of a model
that is here, and as many batches as one session of a server may hold for a hosted one.
"""

import operator
from collections.abc import Callable, Sequence

from emotrace.ledger import Ledger, MemoryLedger, Record, Result, Sums, added
from emotrace.models.traced import Model
from emotrace.remote import jobs
from emotrace.trace.adapting import Adaptive
from emotrace.trace.batches import plan_batches

Batches = list[tuple[int, ...]]
"""Rows of each batch of a request, in the order of computing."""


def mapped(
    model: Model,
    name: str,
    lengths: Sequence[int],
    budget: int,
    work: Callable[[Batches], list[Record]],
    ledger: Ledger | None = None,
) -> list[Record]:
    """Records of all requests.

    Args:
        model: where they run.
        name: the ledger's name for this work.
        lengths: tokens of each row.
        budget: padded tokens of a batch, at most.
        work: what one request does; rows may come again after an attempt that was too large.
        ledger: keeps finished requests.
    """
    adaptive = Adaptive(_by_batches(lengths, budget, work), operator.add, name, lengths=lengths, hosted=model.remote)
    rows = plan_requests(lengths, budget, model.request_tokens)
    return (ledger or MemoryLedger()).map(name, rows, adaptive, workers=model.workers)


def folded(
    model: Model,
    name: str,
    lengths: Sequence[int],
    budget: int,
    work: Callable[[Batches], Sums],
    ledger: Ledger | None = None,
) -> Sums:
    """Sums over all requests; arguments as for :func:`mapped`."""
    adaptive = Adaptive(_by_batches(lengths, budget, work), added, name, lengths=lengths, hosted=model.remote)
    rows = plan_requests(lengths, budget, model.request_tokens)
    return (ledger or MemoryLedger()).fold(name, rows, adaptive, workers=model.workers)


def plan_requests(lengths: Sequence[int], budget: int, limit: int | None) -> Batches:
    """Rows of each request: neighbouring batches of at most ``limit`` padded tokens together, one each without limit.

    >>> plan_requests([3, 5, 4, 1], 8, None), plan_requests([3, 5, 4, 1], 8, 12)
    ([(1,), (2, 0), (3,)], [(1,), (2, 0, 3)])
    """
    requests: Batches = []
    room = 0
    for batch in plan_batches(lengths, budget):
        tokens = len(batch) * max(lengths[row] for row in batch)
        if limit is None or tokens > room:
            requests.append(batch)
            room = (limit or 0) - tokens
        else:
            requests[-1] += batch
            room -= tokens
    return requests


def _by_batches(
    lengths: Sequence[int], budget: int, work: Callable[[Batches], Result]
) -> Callable[[tuple[int, ...]], Result]:
    def of_rows(rows: tuple[int, ...]) -> Result:
        batches = plan_batches([lengths[row] for row in rows], budget)
        with jobs.part(f"{rows[0]}-{rows[-1]}-{len(rows)}"):
            return work([tuple(rows[at] for at in batch) for batch in batches])

    return of_rows
