"""Batches that get smaller when memory, or a server's time, runs out: the work goes on instead of ending."""

import gc
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from emotrace.errors import EmotraceError, ModelError, TimeLimitExceeded

Result = TypeVar("Result")

# How torch's allocators, CUDA's libraries and C++ say it when the class alone (RuntimeError) does not. "MemoryError" is
# how an error that comes back as text, from NDIF or from nnsight's deferred errors, names its class.
OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|ALLOC_FAILED|bad_alloc|MemoryError",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, here or on NDIF: by class, by message, or as the stated cause (``raise ... from``).

    An error that emotrace raised on purpose is never taken for it, whatever its cause: its sentence is for the user.
    nnsight raises an exception of the model's forward, and of a block's own statements, again as the same object.
    """
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        if isinstance(link, EmotraceError):
            return False
        if isinstance(link, MemoryError | torch.OutOfMemoryError):
            return True
        # by name, because importing nnsight's remote side costs every local study its websocket stack
        textual = isinstance(link, RuntimeError) or type(link).__name__ == "RemoteError"
        if textual and OUT_OF_MEMORY.search(str(link)):
            return True
        seen.add(id(link))
        link = link.__cause__
    return False


class Adaptive(Generic[Result]):
    """``work`` on a batch of rows, in smaller pieces where the whole does not fit in memory.

    Hand it to a ledger in place of ``work``::

        ledger.map(name, batches, Adaptive(work, operator.add, "generating replies", lengths=lengths))
        ledger.fold(name, batches, Adaptive(work, added, "capturing activations", lengths=lengths))

    A batch that runs out of memory, or of the time that a server gives to a request, is halved until it fits; batches
    that follow are cut beforehand to the size that did, and one warning says so. Pieces are computed and joined in the
    order of the rows, so records come out as from the whole batch, and sums but for the last bits. Memory is what grows
    with padded tokens: a later batch of shorter rows keeps more of them.

    Args:
        work: rows ``[B]``, longest first, to their result. It may be called again on rows on which it failed, so it
            must not keep what it did before it failed.
        join: two results in row order to one; ``operator.add`` for lists, :func:`emotrace.ledger.added` for sums.
        what: what is being done, for the warning and the error.
        lengths: tokens of each row, by row: what the batches were planned with. Without them every row counts one.
        hosted: whether a server does the work, for what the messages advise.
    """

    def __init__(
        self,
        work: Callable[[tuple[int, ...]], Result],
        join: Callable[[Result, Result], Result],
        what: str,
        *,
        lengths: Sequence[int] | None = None,
        hosted: bool = False,
    ) -> None:
        self.work = work
        self.join = join
        self.what = what
        self.lengths = lengths
        self.hosted = hosted
        self.limit: int | None = None
        self.lacking = "memory"
        self._failed: tuple[int, str] | None = None
        self._warned = False

    def __call__(self, rows: tuple[int, ...]) -> Result:
        """The result of all rows.

        Raises:
            ModelError: one row alone does not fit.
            Exception: whatever else ``work`` raises, unchanged.
        """
        total: Result | None = None
        done = 0
        while done < len(rows) or total is None:
            piece = self._fitting(rows[done:])
            result, trouble = self._attempt(piece)
            if trouble is not None:
                self._shrink(piece, trouble)
                continue
            assert result is not None
            if self._failed is not None and not self._warned:
                self._warn(piece)
            total = result if total is None else self.join(total, result)
            done += len(piece)
        return total

    def _attempt(self, rows: tuple[int, ...]) -> tuple[Result | None, str | None]:
        try:
            return self.work(rows), None
        except Exception as error:
            if isinstance(error, TimeLimitExceeded):
                self.lacking = "time"
            elif is_out_of_memory(error):
                self.lacking = "memory"
            else:
                raise
            trouble = str(error).strip().split("\n")[0] or type(error).__name__
        # Only here, outside the except block, is the traceback gone, and with it the tensors in the frames it holds.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None, trouble

    def _shrink(self, rows: tuple[int, ...], trouble: str) -> None:
        if len(rows) < 2:
            tokens = "" if self.lengths is None else f" ({self._size(rows)} tokens)"
            advice = 'load the model with dtype="bfloat16", device="auto" or remote=True'
            if self.hosted:
                advice = f"ask the server's owners for more {self.lacking}"
            raise ModelError(
                f"{self.what}: {self.lacking} ran out on one row alone{tokens}, so no smaller batch can help: shorten "
                f"it, or {advice} ({trouble})"
            )
        half = self._size(rows[: (len(rows) + 1) // 2])
        self.limit = half if self.limit is None else min(half, self.limit)
        self._failed = self._failed or (len(rows), trouble)

    def _warn(self, fitted: tuple[int, ...]) -> None:
        assert self._failed is not None
        self._warned = True
        rows, trouble = self._failed
        budget = "request_tokens" if self.hosted else "batch_tokens"
        advice = f"a smaller {budget}=" if self.lengths is None else f"{budget}={self._size(fitted)}"
        warnings.warn(
            f"{self.what}: {self.lacking} ran out on a batch of {rows} rows; it was cut to {len(fitted)}, and batches "
            f"that follow are cut alike. {advice} avoids the failed attempt ({trouble})",
            RuntimeWarning,
            stacklevel=3,
        )

    def _fitting(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        """As many of the first rows as stay within the limit, at least one."""
        if self.limit is None:
            return rows
        longest = 1
        for count, row in enumerate(rows, 1):
            longest = max(longest, 1 if self.lengths is None else self.lengths[row])
            if count > 1 and count * longest > self.limit:
                return rows[: count - 1]
        return rows

    def _size(self, rows: tuple[int, ...]) -> int:
        """Padded tokens, or rows where lengths are not known."""
        return len(rows) * (1 if self.lengths is None else max(1, *(self.lengths[row] for row in rows)))
