"""The costs that the documents name are those of what blocks return."""

from pathlib import Path

import pytest
import torch

import emotrace as et
from benchmarks.costs import capture_bytes, influence_bytes, scores_bytes, states_bytes, table
from emotrace.trace.capture import state_coordinates
from emotrace.trace.weights import directions_read_back
from tests.remote.functions import CONDITIONS, PROMPTS, SAMPLES
from tests.remote.loopback import hosted_here
from tests.tiny import tiny_model

OVERHEAD = 10_000
"""Bytes of torch's format around the numbers, at most."""


def received(model, work):
    before = dict(model.spent)
    work()
    assert model.spent["requests"] - before.get("requests", 0) == 1
    return model.spent["bytes_received"] - before.get("bytes_received", 0)


@pytest.fixture(scope="module")
def study():
    model = hosted_here(tiny_model(), request_tokens=10_000)
    statistics = et.capture(model, SAMPLES, CONDITIONS)
    return model, statistics, et.emotion_directions(statistics)


def test_capture(study):
    model, *_ = study
    found = received(model, lambda: et.capture(model, SAMPLES, CONDITIONS))
    assert 0 <= found - capture_bytes(model.sizes, len(CONDITIONS)) < OVERHEAD


def test_states(study):
    model, *_ = study
    found = received(model, lambda: state_coordinates(model, PROMPTS, range(3)))
    assert 0 <= found - states_bytes(model.sizes, len(PROMPTS)) < OVERHEAD


def test_scores(study):
    model, *_ = study
    vectors = torch.randn(2, 3, model.sizes.width, dtype=torch.float64)
    found = sum(received(model, lambda site=site: directions_read_back(model, site, vectors)) for site in model.sites)
    assert 0 <= found - scores_bytes(model.sizes, 2) < OVERHEAD


def test_influence(study):
    model, _, directions = study
    found = received(model, lambda: et.sublayer_influence(model, PROMPTS, directions, alphas=(0.1, 0.2, 0.3)))
    # the sums over strengths are taken here
    assert 0 <= found - influence_bytes(model.sizes, 2, 3) < OVERHEAD


def test_the_documents_have_the_table():
    assert table() in (Path(__file__).parents[2] / "docs" / "ndif.md").read_text()
