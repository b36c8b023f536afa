"""Batches under a token budget: sorted by length, padded on the left, results back in the order given."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from emotrace.errors import DataError, shown

DEFAULT_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class TokenBatch:
    """Left-padded ids.

    Attributes:
        ids: int64 ``[B, T]``.
        mask: int64 ``[B, T]``, 1 where a token is not padding.
    """

    ids: torch.Tensor
    mask: torch.Tensor

    @property
    def positions(self) -> torch.Tensor:
        """Position ids ``[B, T]`` that give every row the positions it would have unpadded."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)


def pad_left(sequences: Sequence[Sequence[int]], pad_token: int) -> TokenBatch:
    """Sequences of ids as one left-padded batch."""
    width = max(len(ids) for ids in sequences)
    ids = torch.full((len(sequences), width), pad_token, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, width - len(sequence) :] = 1
    return TokenBatch(ids, mask)


def plan_batches(lengths: Sequence[int], budget: int) -> list[tuple[int, ...]]:
    """Indices cut into batches of at most ``budget`` tokens (padding counted), longest first.

    Longest first, so that memory trouble shows at once. A sequence longer than the budget gets a batch of its own.
    """
    if type(budget) is not int or budget < 1:
        raise DataError(f"a budget of {shown(budget)} tokens a batch: give a whole number from 1")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return [tuple(batch) for batch in batches]
