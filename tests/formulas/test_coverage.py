"""Do the intervals of a share hold it as often as they say? The whole table is `python -m benchmarks coverage`."""

import json

import numpy as np
import pytest

from benchmarks import coverage, record
from emotrace.formulas.statistics import cluster_bootstrap, proportion_interval


@pytest.mark.parametrize("size", [6, "ragged"])
def test_many_datasets_at_once_are_cluster_bootstraps(size):
    sums, counts = coverage.drawn(np.random.default_rng(0), 5, 60, size, 0.7, 0.3)
    low, high = coverage.bootstrap(sums, counts, seed=3)
    for i in range(5):
        values = np.concatenate([np.arange(n) < s for s, n in zip(sums[i], counts[i], strict=True)])
        expected = cluster_bootstrap(values, np.repeat(np.arange(60), counts[i].astype(int)), seed=3)
        assert (low[i], high[i]) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_rows_of_a_cluster_have_the_stated_share_and_correlation():
    sums, counts = coverage.drawn(np.random.default_rng(1), 1000, 60, 6, 0.8, 0.3)
    assert (sums / counts).mean() == pytest.approx(0.8, abs=0.005)
    # variance of a beta-binomial: n p (1 - p) (1 + (n - 1) correlation)
    assert sums.var() == pytest.approx(6 * 0.8 * 0.2 * (1 + 5 * 0.3), rel=0.02)
    ragged = coverage.drawn(np.random.default_rng(1), 100, 60, "ragged", 1.0, 0.3)
    assert np.array_equal(*ragged)
    assert (ragged[1].min(), ragged[1].max()) == (1, 11)


def test_coverage_is_that_of_the_intervals_one_by_one(monkeypatch):
    monkeypatch.setattr(coverage, "SEEDS", 3)
    sets = []
    draw = coverage.drawn

    def kept(*given):
        sets.append(draw(*given))
        return sets[-1]

    monkeypatch.setattr(coverage, "drawn", kept)
    found = coverage.coverage(60, 3, 0.9, 0.3, datasets=60)
    intervals = [
        proportion_interval(
            np.concatenate([np.arange(n) < s for s, n in zip(sums, counts, strict=True)]),
            np.repeat(np.arange(60), counts.astype(int)),
            seed=part,
        )
        for part in range(3)
        for sums, counts in zip(*sets[part], strict=True)
    ]
    assert found.used == pytest.approx(100 * np.mean([i.low <= 0.9 <= i.high for i in intervals]))
    assert found.switched == pytest.approx(100 * np.mean([i.method == "wilson" for i in intervals]))
    assert found.width == pytest.approx(np.mean([i.high - i.low for i in intervals]))
    assert 0 < found.switched < 100


def test_tables_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(coverage, "SIZES", (6,))
    monkeypatch.setattr(coverage, "EDGE_SIZES", (6,))
    monkeypatch.setattr(coverage, "CORRELATIONS", (0.3,))
    monkeypatch.setattr(coverage, "SEEDS", 2)
    coverage.main(datasets=20, groups=(60,))
    kept = json.loads((tmp_path / "coverage.json").read_text())
    assert [row["share"] for row in kept["Shares from 0.2 to 0.9"]] == list(coverage.MIDDLE)
    assert kept["Shares from 0.9 to 1"][-1]["used, %"] == 100


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "share"), [(60, 0.2), (60, 0.5), (60, 0.9), (120, 0.9)])
def test_intervals_cover_in_the_middle(groups, share):
    found = coverage.coverage(groups, 6, share, 0.3)
    assert 93 <= found.bootstrap <= 97
    assert 93 <= found.used <= 97


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.95, 0.99, 0.995])
def test_intervals_never_undercover_at_the_edge(share):
    assert coverage.coverage(60, 6, share, 0.3).used >= 94
    assert coverage.coverage(60, 6, share, 0.3, datasets=1000).bootstrap < 93.5  # which is why there is another
