"""Cosines of directions over depth against loops."""

import math

import pytest
import torch

from emotrace.errors import DataError
from emotrace.steps.separation import States, alignment, cosines, depth_similarity, nearest_neighbours

VECTORS = torch.randn(3, 4, 2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
REFERENCE = torch.randn(3, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return dot / math.sqrt(sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist()))


def nearest(points: list[list[float]], one: int) -> int:
    return min((i for i in range(len(points)) if i != one), key=lambda i: math.dist(points[one], points[i]))


def test_alignment_is_each_directions_cosine_with_its_own_reference():
    found = alignment(VECTORS, REFERENCE)
    assert found.shape == (3, 4, 2)
    for e in range(3):
        for layer in range(4):
            for sublayer in range(2):
                expected = cosine(VECTORS[e, layer, sublayer], REFERENCE[e])
                assert float(found[e, layer, sublayer]) == pytest.approx(expected, rel=1e-12)


def test_depth_similarity_goes_through_sublayers_in_the_models_order():
    found = depth_similarity(VECTORS)
    assert found.shape == (3, 8, 8)
    places = [(layer, sublayer) for layer in range(4) for sublayer in range(2)]
    for e in range(3):
        for i, one in enumerate(places):
            for j, other in enumerate(places):
                expected = cosine(VECTORS[e][one], VECTORS[e][other])
                assert float(found[e, i, j]) == pytest.approx(expected, rel=1e-12)


def test_cosines_of_vectors_of_any_length():
    found = cosines(REFERENCE)
    for i in range(3):
        assert found[i] == pytest.approx([cosine(REFERENCE[i], REFERENCE[j]) for j in range(3)], abs=1e-6)


def test_nearest_neighbours_are_counted_by_emotion_and_by_scenario():
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(12, 2, 2, 5, generator=generator)
    labels = torch.arange(12) % 3
    clusters = tuple(f"s{i // 3}" for i in range(12))
    emotion, scenario = nearest_neighbours(States(("a", "b", "c"), (0, 1), values, labels, clusters))
    assert emotion.shape == scenario.shape == (2, 2)
    for layer in range(2):
        for sublayer in range(2):
            points = values[:, layer, sublayer].double().tolist()
            near = [nearest(points, i) for i in range(12)]
            alike = sum(int(labels[i] == labels[j]) for i, j in enumerate(near))
            together = sum(clusters[i] == clusters[j] for i, j in enumerate(near))
            assert float(emotion[layer, sublayer]) == pytest.approx(alike / 12)
            assert float(scenario[layer, sublayer]) == pytest.approx(together / 12)


def test_one_state_has_no_neighbour():
    with pytest.raises(DataError, match="two states or more, got 1"):
        nearest_neighbours(States(("a",), (0,), torch.ones(1, 1, 2, 3), torch.tensor([0]), ("s",)))
