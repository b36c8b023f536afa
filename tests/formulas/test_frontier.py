"""The frontier of success and fluency against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotrace.errors import DataError
from emotrace.formulas.frontier import area_within, on_frontier

SETTINGS = st.lists(
    st.tuples(
        st.integers(0, 10).map(lambda n: n / 10),
        st.one_of(st.none(), st.integers(-15, 15).map(lambda n: n / 10)),
    ),
    min_size=1,
    max_size=8,
)


@given(SETTINGS)
def test_frontier_is_what_a_loop_finds(settings):
    found = on_frontier([s for s, _ in settings], [g for _, g in settings])
    for (success, gap), mark in zip(settings, found, strict=True):
        beaten = gap is None
        for other, its in settings:
            if its is not None and gap is not None:
                no_worse = other >= success and abs(its) <= abs(gap)
                beaten |= no_worse and (other, abs(its)) != (success, abs(gap))
        assert mark == (not beaten)


@given(SETTINGS, st.sampled_from([0.5, 1.0, 2.0]))
def test_area_is_a_brute_force_integral(settings, limit):
    # gaps and limits are multiples of 0.1, so the mean over the middles of 0.1-wide steps is the integral
    allowed = np.arange(round(10 * limit)) / 10 + 0.05
    best = [max([s for s, g in settings if g is not None and abs(g) <= x], default=0.0) for x in allowed]
    expected = np.mean(best)
    found = area_within([s for s, _ in settings], [g for _, g in settings], limit=limit)
    assert found == pytest.approx(expected, abs=1e-9)


def test_known_areas():
    assert area_within([1.0], [0.0], limit=1.0) == 1.0
    assert area_within([0.4, 0.9], [-0.25, 0.5], limit=1.0) == pytest.approx(0.25 * 0.4 + 0.5 * 0.9)
    assert area_within([1.0], [1.5], limit=1.0) == 0.0
    assert area_within([1.0], [None], limit=1.0) == 0.0
    assert on_frontier([0.5, 0.5, 0.4, 0.9], [0.1, -0.1, 0.2, 0.2]) == [True, True, False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: area_within([1.0], [0.1], limit=0.0), "limit"),
        (lambda: on_frontier([1.0], [0.1, 0.2]), "for each setting"),
        (lambda: on_frontier([np.nan], [0.1]), "must be numbers"),
        (lambda: on_frontier([1.0], [np.nan]), "must be numbers"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(DataError, match=message):
        call()
