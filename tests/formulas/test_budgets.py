"""The largest remainder against its definition, under random weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emotrace.errors import CircuitError
from emotrace.formulas.budgets import largest_remainder


def test_known_shares():
    assert largest_remainder(np.array([1.0, 1.0, 1.0]), 4, 10).tolist() == [2, 1, 1]
    assert largest_remainder(np.array([6.0, 3.0, -2.0, 1.0]), 10, 10).tolist() == [6, 3, 0, 1]
    assert largest_remainder(np.array([100.0, 1.0, 1.0]), 10, 4).tolist() == [4, 3, 3]


@given(
    st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=12).filter(lambda w: max(w) > 1e-6),
    st.integers(1, 30),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_shares_add_up_within_capacity_and_keep_order(weights, capacity, data):
    values = np.array(weights)
    values[values < 1e-6] = -1.0
    total = data.draw(st.integers(0, capacity * int((values > 0).sum())))
    shares = largest_remainder(values, total, capacity)
    assert shares.sum() == total
    assert (shares >= 0).all()
    assert (shares <= capacity).all()
    assert (shares[values <= 0] == 0).all()
    ideal = total * np.maximum(values, 0) / np.maximum(values, 0).sum()
    if (ideal <= capacity).all():
        assert (np.abs(shares - ideal) < 1 + 1e-6).all()


def test_impossible_budgets_are_refused():
    with pytest.raises(CircuitError, match="no sublayer has a positive influence"):
        largest_remainder(np.array([-1.0, 0.0]), 3, 5)
    with pytest.raises(CircuitError, match="2 sublayers of positive influence hold 5 each"):
        largest_remainder(np.array([1.0, 2.0, -1.0]), 11, 5)
    with pytest.raises(CircuitError, match="negative"):
        largest_remainder(np.array([1.0]), -1, 5)
