"""Shards: equal shares of a run's scenarios, dealt out like cards, and put back in order."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from emotrace.errors import RunError

Item = TypeVar("Item")
Shard = tuple[int, int]
"""Which share, from 1, and of how many: (3, 16) is the third of sixteen."""


def as_shard(text: str) -> Shard:
    """``"3/16"`` as (3, 16).

    Raises:
        RunError: text of another form, or a share that does not exist.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not found:
        raise _malformed(text)
    return checked_shard((int(found[1]), int(found[2])))


def checked_shard(value: Any) -> Shard:
    """``value`` when it is a shard.

    Raises:
        RunError: it is none.
    """
    match value:
        case (int(index), int(count)) if 1 <= index <= count and type(index) is type(count) is int:
            return (index, count)
        case (int(index), int(count)):
            raise _malformed(shard_name((index, count)))
    raise _malformed(value)


def _malformed(value: object) -> RunError:
    return RunError(f"shard {value!r}: write I/N with I from 1 to N, as in 3/16 (in Python: (3, 16))")


def shard_name(shard: Shard) -> str:
    """``3/16``."""
    return f"{shard[0]}/{shard[1]}"


def dealt(items: Sequence[Item], shard: Shard | None) -> list[Item]:
    """The shard's items: every n-th. All of them without a shard.

    Raises:
        RunError: there are fewer items than shards, and this shard has none.
    """
    if shard is None:
        return list(items)
    index, count = shard
    share = list(items[index - 1 :: count])
    if not share:
        raise RunError(
            f"shard {shard_name(shard)} is empty: there are {len(items)} scenarios; cut them into {len(items)} shards "
            "at most"
        )
    return share


def put_back(shares: Sequence[Sequence[Item]]) -> list[Item]:
    """What :func:`dealt` gave to each shard, in the order before.

    Raises:
        RunError: sizes that no dealing gives.
    """
    total = sum(map(len, shares))
    if any(len(share) != len(range(k, total, len(shares))) for k, share in enumerate(shares)):
        raise RunError(
            f"shards of {', '.join(str(len(share)) for share in shares)} items are not equal shares of a whole"
        )
    return [shares[k % len(shares)][k // len(shares)] for k in range(total)]
