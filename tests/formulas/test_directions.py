"""Directions against slow loops and the invariants that DESIGN states."""

import pytest
import torch

from emotrace.errors import DataError
from emotrace.formulas.directions import contrast_means, reference_direction, stable_layers, unit


def states(groups=5, emotions=6, width=7):
    return torch.randn(groups, emotions + 1, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_means_suffice_because_the_contrast_is_linear():
    values = states()
    for neutral in (False, True):
        slow = torch.zeros(6, 7, dtype=torch.float64)
        for g in range(5):
            for e in range(6):
                base = values[g, 6] if neutral else sum(values[g, k] for k in range(6)) / 6
                slow[e] += (values[g, e] - base) / 5
        fast = contrast_means(values[:, :6].mean(0), values[:, 6].mean(0) if neutral else None)
        assert torch.allclose(fast, slow, rtol=1e-12, atol=1e-14)


def test_centred_means_sum_to_zero():
    assert float(contrast_means(states().mean(0)[:6], None).sum(0).abs().max()) < 1e-14


def test_unit_refuses_a_zero_difference():
    assert torch.allclose(unit(states()).norm(dim=-1), torch.ones(5, 7, dtype=torch.float64))
    with pytest.raises(DataError, match="equal means"):
        unit(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("layers", "expected"), [(28, (20, 21, 22, 23, 24)), (8, (5, 6)), (4, (2,)), (3, (1,)), (10, (7, 8))]
)
def test_stable_layers(layers, expected):
    assert stable_layers(layers) == expected


def test_reference_direction_aligns_signs_with_the_first():
    generator = torch.Generator().manual_seed(1)
    directions = unit(torch.randn(2, 4, 2, 5, dtype=torch.float64, generator=generator))
    for e in range(2):
        total = torch.zeros(5, dtype=torch.float64)
        first = directions[e, 1, 0]
        for layer in (1, 3):
            for sublayer in (0, 1):
                v = directions[e, layer, sublayer]
                total += v if float(v @ first) >= 0 else -v
        assert torch.allclose(reference_direction(directions, (1, 3))[e], total / total.norm())
