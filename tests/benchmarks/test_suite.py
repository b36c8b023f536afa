"""Every benchmark at sizes that take moments: both sides compute the same, the tables hold what they claim."""

import doctest
import json
from pathlib import Path

import pytest
import torch

from benchmarks import costs, discovery, fresh, generation, gpu, growth, loops, overhead, record, shapes, timing
from benchmarks.__main__ import NAMES
from benchmarks.contenders import Task
from benchmarks.shapes import Shape
from benchmarks.timing import in_turn, peak_during, ratios, resident, spread

SMALL = Shape(2, 32, 4, 64)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def kept(results, name):
    assert (results / f"{name}.md").read_text().startswith("# ")
    return json.loads((results / f"{name}.json").read_text())


def test_discovery(results, monkeypatch):
    monkeypatch.setattr(discovery, "fresh", lambda target, **given: {"peak": 1e6})
    text = discovery.main(scenarios=1, rounds=1, share=0.002)
    tables = kept(results, "discovery")
    assert "loops, one prompt at a time" in text
    work, counts, agreement = (tables[name] for name in tables if name not in ("measured", "machine"))
    assert work[0]["weighted forward tokens"] < work[1]["weighted forward tokens"] / 50
    assert counts[0]["share of the ideal"] > 0.9
    assert counts[1]["fewer forward tokens"] > 330
    assert 0 < agreement[0]["largest relative difference"] < 1e-4


@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_discovery_notices_loops_that_disagree(monkeypatch, wrong):
    monkeypatch.setattr(loops, "head_score", lambda *_: wrong)
    with pytest.raises(AssertionError, match="the loops and emotrace differ"):
        discovery.main(scenarios=1, rounds=1, share=0.002)


def test_forward_tokens_are_counted_by_layer():
    study = discovery.study_of(1, 4096)
    with discovery.token_counter(study.model.nn._module) as tokens:
        loops.final_states(study.model.nn._module, study.neutral, 1)
    assert tokens == [sum(map(len, study.neutral))] * study.model.sizes.layers


@pytest.mark.parametrize("layers", [2, 7])
def test_the_ideal_is_what_it_is_by_counting(layers):
    heads, emotions, strengths, tokens = 3, 2, 4, 10
    loop = (layers * heads + 2 * layers * strengths) * emotions * tokens
    above = [2 * layers - 1 - sublayer for sublayer in range(2 * layers)]  # sublayers behind each one
    once = (emotions + 1) * tokens + emotions * strengths * sum(above) / (2 * layers)
    assert discovery.ideal(layers, heads, emotions, strengths, tokens) == pytest.approx(loop / once)


def test_overhead(results, monkeypatch):
    monkeypatch.setattr(overhead, "SMALL", SMALL)
    monkeypatch.setattr(overhead, "TINY", SMALL)
    overhead.main(tiny=(3, 5, 3), small=(2, 4, 2), rounds=(1, 1), peers=())
    tables = kept(results, "overhead")
    rows = [row for name, table in tables.items() if name.startswith("Width") for row in table]
    assert {row["by"] for row in rows} == {"hooks", "nnsight by hand", "emotrace"}
    assert {row["operation"] for row in rows} == set(overhead.OPERATIONS)
    assert max(row["difference from hooks"] for row in rows) < 1e-5


def test_overhead_notices_a_contender_that_computes_something_else(monkeypatch):
    right = overhead.contenders.by_hand

    def wrong(hf, task: Task):
        calls = right(hf, task)
        return {**calls, "edit": lambda: {"logits": calls["edit"]()["logits"] + 0.1}}

    monkeypatch.setattr(overhead.contenders, "by_hand", wrong)
    with pytest.raises(AssertionError, match="nnsight by hand differs in edit"):
        overhead.measure(SMALL, 1, (), batch=2, length=4, new_tokens=2)


def test_a_number_that_is_none_differs():
    found = overhead.Results()
    right = {site: torch.ones(2, 3) for site in overhead.contenders.SITES}
    found.found["hooks", "capture"] = right
    found.found["x", "capture"] = right | {"neurons": torch.tensor([float("nan")] * 3).expand(2, 3)}
    assert not found.apart("x", "capture") < overhead.TOLERANCE


def test_generation(results, monkeypatch):
    monkeypatch.setattr(shapes, "SMALL", Shape(2, 32, 4, 80))
    generation.main(batches=(2,), length=5, new_tokens=4, rounds=1, fewer=1, peers=())
    (table,) = (value for name, value in kept(results, "generation").items() if name.startswith("Prompts"))
    assert [row["generation"] for row in table] == ["steered", "compiled", "plain, again", "steered, static cache"]
    assert all(row["tokens that differ"] == 0 for row in table)


@pytest.mark.slow
def test_growth(results):
    growth.main(sizes={"prompts": (6, 12)}, base={"layers": 1, "heads": 2, "length": 12})
    (table,) = (value for name, value in kept(results, "growth").items() if name.startswith("Prompts"))
    assert [row["prompts"] for row in table] == [6, 12]
    assert all(row["MB above the model"] > 0 for row in table)


@pytest.mark.slow
def test_a_process_that_fails_is_told():
    with pytest.raises(RuntimeError, match=r"measure.*failed:"):
        fresh.fresh("benchmarks.growth:measure", prompts=7, layers=1, heads=0, length=12)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the word is for machines without a GPU")
def test_gpu_says_that_there_is_none(results):
    assert gpu.main() == "gpu: skipped, there is no GPU on this machine"
    assert not results.exists()


def test_results_of_every_benchmark_are_kept_in_the_repository():
    folder = Path(record.__file__).parent / "results"
    for name in (*NAMES, "remote"):
        if name != "gpu":
            assert (folder / f"{name}.json").is_file(), name


@pytest.mark.parametrize("module", [costs, discovery, record, timing])
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_times_are_taken_in_turn_and_paired():
    order = []

    def call(name, seconds):
        return lambda: order.append(name) or seconds

    seconds = in_turn({"a": call("a", 2.0), "b": call("b", 4.0)}, 3)
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert seconds == {"a": [2.0] * 3, "b": [4.0] * 3}
    assert ratios(seconds["b"], seconds["a"]).median == 2
    found = spread([float(n) for n in range(1, 16)])
    assert (found.median, found.low, found.high) == (8.0, 4.0, 12.0)


def test_a_peak_is_seen_and_gone():
    before = resident()
    peak = peak_during(lambda: torch.ones(30_000_000).sum())
    assert peak - before > 100e6
    assert peak_during(lambda: None) - before < 60e6
