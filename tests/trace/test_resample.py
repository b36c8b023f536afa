"""Resampled statistics against captures of the samples written out as often as they were drawn."""

import pytest
import torch

import emotrace as et
from emotrace.errors import DataError
from emotrace.trace.resample import capture_resampled, poisson_draws, resampled_bytes
from tests.tiny import QUICK, close, random_prompts, tiny_model

CONDITIONS = ("joy", "neutral")
CLUSTERS = [f"scene-{n // 2}" for n in range(12)]
SAMPLES = [et.Sample(n % 2, tuple(ids), (7, 8, 9)[: n % 4]) for n, ids in enumerate(random_prompts(12))]


def same(one, other, tolerance=1e-11):
    assert one.count.tolist() == other.count.tolist()
    assert one.reply_count.tolist() == other.reply_count.tolist()
    for place in ("last", "reply"):
        for site, values in one.at(place).items():
            assert close(values, other.at(place)[site], tolerance), (place, site)


@pytest.mark.parametrize("family", QUICK)
def test_a_draw_is_the_capture_of_what_it_drew(family):
    model = tiny_model(family)
    whole, *draws = capture_resampled(model, SAMPLES, CONDITIONS, CLUSTERS, resamples=4, batch_tokens=40)
    same(whole, et.capture(model, SAMPLES, CONDITIONS), 1e-6)
    assert len(draws) == 4
    for number, draw in enumerate(draws):
        times = [int(poisson_draws(name, 4, 0)[number]) for name in CLUSTERS]
        written_out = [sample for sample, n in zip(SAMPLES, times, strict=True) for _ in range(n)]
        same(draw, et.capture(model, written_out, CONDITIONS), 1e-6)  # norms of most families round to float32


def test_draws_of_shards_add_up():
    model = tiny_model("gpt2")
    options = {"resamples": 3, "seed": 5}
    whole = capture_resampled(model, SAMPLES, CONDITIONS, CLUSTERS, **options)
    first, rest = (
        capture_resampled(model, SAMPLES[cut], CONDITIONS, CLUSTERS[cut], **options) for cut in (slice(4), slice(4, 12))
    )
    for together, one, other in zip(whole, first, rest, strict=True):
        same(together, one.plus(other))


def test_draws_are_poisson_and_each_clusters_own():
    draws = torch.stack([poisson_draws(f"s{n}", 200, 1) for n in range(100)]).double()
    assert abs(float(draws.mean()) - 1) < 0.02
    assert abs(float(draws.var()) - 1) < 0.04
    assert torch.equal(poisson_draws("a", 9, 1)[:4], poisson_draws("a", 4, 1))
    assert not torch.equal(poisson_draws("a", 20, 1), poisson_draws("a", 20, 2))
    correlation = torch.corrcoef(draws)
    assert float((correlation - torch.eye(100)).abs().max()) < 0.35


def test_what_they_take_is_known_and_bounded():
    model = tiny_model("llama")
    found = capture_resampled(model, SAMPLES, CONDITIONS, CLUSTERS, resamples=3)
    held = sum(v.numel() * v.element_size() for s in found for p in ("last", "reply") for v in s.at(p).values())
    assert held == resampled_bytes(model.sizes, 2, 3)
    with pytest.raises(DataError, match=r"3 resamples take .* GB allowed: ask for 2 at most"):
        capture_resampled(model, SAMPLES, CONDITIONS, CLUSTERS, resamples=3, most_bytes=held - 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clusters": CLUSTERS[1:]}, "11 clusters for 12 samples"),
        ({"resamples": 0}, "resamples is 0"),
        ({"samples": []}, "nothing to capture"),
    ],
)
def test_what_does_not_fit_is_named(changed, message):
    given = {"samples": SAMPLES, "conditions": CONDITIONS, "clusters": CLUSTERS} | changed
    with pytest.raises(DataError, match=message):
        capture_resampled(tiny_model(), **given)
