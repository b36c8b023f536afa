"""Batches under a token budget."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from emotrace.trace.batches import pad_left, plan_batches


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    batches = plan_batches(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


def test_padding_is_on_the_left_and_positions_ignore_it():
    batch = pad_left([[7, 8, 9], [5]], 0)
    assert batch.ids.tolist() == [[7, 8, 9], [0, 0, 5]]
    assert batch.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.ids.dtype == torch.int64
