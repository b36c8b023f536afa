"""Circuit quality on a tiny model: every number against the readings it is made of, read again one by one."""

import numpy as np
import pytest
import torch

from emotrace.errors import CircuitError
from emotrace.steps import necessity
from emotrace.steps.circuit import EmotionCircuit
from emotrace.steps.components import Scores
from emotrace.steps.necessity import against_random, best_heads, completeness, in_words, minimality
from emotrace.steps.quality import Bench, best_at, faithfulness_curve, kept_by, random_at
from emotrace.steps.quality_records import (
    against_record,
    completeness_record,
    curve_record,
    needed_record,
    singles_records,
    values_record,
)
from emotrace.steps.specificity import driven_readings, removed_readings
from emotrace.trace.edits import add
from emotrace.trace.kept import EVERYTHING, NOTHING, Kept
from emotrace.trace.outside import kept_readings
from emotrace.trace.plan import Plan
from tests.tiny import close, tiny_model

EMOTIONS = ("joy", "awe")
HEADS = {"joy": [(0, 1), (2, 0)], "awe": [(1, 2)]}
NEURONS = {"joy": [(1, 5), (1, 7), (2, 39)], "awe": [(0, 3), (2, 8)]}


def circuit(heads=HEADS, neurons=NEURONS) -> EmotionCircuit:
    def ids(held):
        return {e: torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2) for e, pairs in held.items()}

    def vectors(held, width):
        return {e: torch.ones(len(pairs), width, dtype=torch.float64) for e, pairs in held.items()}

    h, n = vectors(heads, 12), vectors(neurons, 1)
    budgets = {"heads": 2, "neurons": 3}
    return EmotionCircuit(EMOTIONS, "neutral", budgets, "global", "analytic", {}, ids(heads), h, h, ids(neurons), n, n)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def bench(model) -> Bench:
    """Twelve scenarios in which the emotions' instruction is one token; directions along which it shows."""
    scenes = torch.randint(7, 60, (12, 3), generator=torch.Generator().manual_seed(1)).tolist()
    prompts = [[[4, word, *scene] for word in (20, 33)] for scene in scenes]
    states = kept_readings(model, prompts, [[[EVERYTHING] * 2]], "zero", torch.eye(32, dtype=torch.float64))[0].mean(0)
    apart = states - states.mean(0)
    return Bench(model, EMOTIONS, prompts, apart / apart.norm(dim=-1, keepdim=True), "mean", "last")


@pytest.fixture(scope="module")
def scores(model) -> Scores:
    generator = torch.Generator().manual_seed(2)
    sizes = model.sizes
    heads, neurons = (
        torch.rand(2, sizes.layers, count, generator=generator, dtype=torch.float64) for count in (sizes.heads, 40)
    )
    return Scores(EMOTIONS, "analytic", heads, neurons)


def reading(bench, kept, emotion):
    """m per scenario with one set kept for one emotion, by a call of its own."""
    e = EMOTIONS.index(emotion)
    variant = [[kept if i == e else EVERYTHING for i in range(2)]]
    found = kept_readings(bench.model, bench.prompts, [variant], bench.ablation, bench.reference, tokens=bench.tokens)
    return found[0, :, e, e].numpy()


def f(bench, kept, emotion):
    m = [reading(bench, part, emotion).mean() for part in (kept, NOTHING, EVERYTHING)]
    return (m[0] - m[1]) / (m[2] - m[1])


def held(emotion, lose=()):
    return {
        site: [c for c in parts[emotion] if (site, *c) not in lose]
        for site, parts in (("heads", HEADS), ("neurons", NEURONS))
    }


def test_reading_takes_each_prompts_own_direction(bench):
    m = bench.read({"circuit": kept_by(circuit())}, "x")
    assert list(m) == ["full", "empty", "circuit"]
    for e, emotion in enumerate(EMOTIONS):
        assert m["circuit"][:, e] == pytest.approx(reading(bench, Kept(held(emotion)), emotion))
    with pytest.raises(CircuitError, match="each of 2 emotions"):
        bench.read({"short": [[NOTHING]]}, "x")


def test_best_and_random_sets_have_the_share_asked_for(model, scores):
    best = best_at(model, scores, 0.25)[0]
    assert [len(best[0].components[s]) for s in ("heads", "neurons")] == [round(0.25 * 12), 30]
    assert best[1].components["heads"] == scores.top("heads", "awe", 3)
    drawn = random_at(model, 2, 0.25, 3, seed=0)
    assert len(drawn) == 3
    assert all(len(set(kept.components["neurons"])) == 30 for kepts in drawn for kept in kepts)
    assert drawn[0][0].components != drawn[1][0].components


def test_curve_runs_from_nothing_to_everything(bench, scores):
    curve = faithfulness_curve(bench, circuit(), scores, shares=(0.1, 0.5, 2.0))
    assert curve.shares == (0.0, 0.1, 0.5, 1.0)
    assert curve.best.values[[0, -1]] == pytest.approx([0, 1])
    assert curve.random.values[[0, -1]] == pytest.approx([0, 1])
    kept = best_at(bench.model, scores, 0.5)[0]
    for e, emotion in enumerate(EMOTIONS):
        assert curve.by_emotion[emotion].values[2] == pytest.approx(f(bench, kept[e], emotion))
    record = curve_record(curve)
    assert record["circuit"]["faithfulness"] == pytest.approx(curve.circuit.values[0])
    assert record["areas"]["cpr"][0] == pytest.approx(np.trapezoid(curve.best.values, curve.shares))


@pytest.mark.parametrize("removed", [False, True])
def test_against_random_counts_draws_that_do_as_well(bench, removed):
    others = [circuit({"joy": [(0, d), (2, d)], "awe": [(1, d)]}) for d in (2, 3)]
    found = against_random(bench, circuit(), others, removed=removed)
    values = [
        np.mean([reading(bench, Kept(self_parts(c, e), removed), e) - reading(bench, NOTHING, e) for e in EMOTIONS])
        / np.mean([reading(bench, EVERYTHING, e) - reading(bench, NOTHING, e) for e in EMOTIONS])
        for c in (circuit(), *others)
    ]
    assert found.circuit.values[0] == pytest.approx(values[0])
    assert found.random == pytest.approx(values[1:])
    as_good = sum(v <= values[0] if removed else v >= values[0] for v in values[1:])
    assert found.p == pytest.approx((1 + as_good) / 3)
    assert against_record(found)["by_emotion"]["joy"]["circuit"] == pytest.approx(
        f(bench, Kept(held("joy"), removed), "joy")
    )


def self_parts(c, emotion):
    return {site: c.components(site, emotion) for site in ("heads", "neurons")}


def test_completeness_takes_the_same_components_from_both(bench):
    found = completeness(bench, circuit(), subsets=2)
    assert found.names == ("all heads", "all neurons", "half 1", "half 2")
    without = {e: {"heads": HEADS[e]} for e in EMOTIONS}
    kept = {e: Kept({"neurons": NEURONS[e]}) for e in EMOTIONS}
    whole = sum((reading(bench, EVERYTHING, e) - reading(bench, NOTHING, e)).mean() for e in EMOTIONS)
    for values, sets in (
        (found.circuit, kept),
        (found.model, {e: Kept(without[e], outside=True) for e in EMOTIONS}),
    ):
        rise = sum((reading(bench, sets[e], e) - reading(bench, NOTHING, e)).mean() for e in EMOTIONS)
        assert values[0] == pytest.approx(rise / whole)
    assert found.gaps == pytest.approx(np.abs(found.circuit - found.model))


def by_score(values, components):
    return sorted(components, key=lambda c: -float(values[c]))


def test_minimality_removes_one_component_at_a_time(bench, scores):
    found = minimality(bench, circuit(), scores)
    assert found["joy"].components == (
        *(("heads", *c) for c in by_score(scores.heads[0], HEADS["joy"])),
        *(("neurons", *c) for c in by_score(scores.neurons[0], NEURONS["joy"])),
    )
    assert len(found["awe"].components) == 3
    for emotion in EMOTIONS:
        for component, drop in zip(found[emotion].components, found[emotion].drops, strict=True):
            less = f(bench, Kept(held(emotion, lose=[component])), emotion)
            assert drop == pytest.approx(f(bench, Kept(held(emotion)), emotion) - less, abs=1e-9)
    record = needed_record(found["joy"])
    assert record["heads"]["components"] == 2
    assert record["largest"][0]["drop"] == max(found["joy"].drops)
    few = minimality(bench, circuit(), scores, tested=3)["joy"]
    best = max(NEURONS["joy"], key=lambda c: float(scores.neurons[0][c]))
    assert {c for c in few.components if c[0] == "heads"} == {("heads", *c) for c in HEADS["joy"]}
    assert few.components[2] == ("neurons", *best)


def test_nothing_is_said_of_an_emotion_whose_reading_does_not_stand_out(bench, model, scores):
    noise = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    noise[0] = 0  # the reading is zero whatever is ablated
    flat = Bench(model, EMOTIONS, bench.prompts[:4], noise, "mean", "last")
    spared = minimality(flat, circuit(), scores)["joy"]
    assert "standard errors" in spared.undefined
    assert needed_record(spared) == {"undefined": spared.undefined}
    assert singles_records(spared) == []
    assert removed_readings(flat, circuit())[:, 0].isnan().all()
    nowhere = Bench(model, EMOTIONS, bench.prompts[:4], torch.zeros(2, 32, dtype=torch.float64), "mean", "last")
    assert "undefined" in completeness_record(completeness(nowhere, circuit(), subsets=1))


def test_needed_components_fall_and_are_unlikely_by_chance():
    singles = necessity.Singles(
        (("heads", 0, 0), ("heads", 0, 1), ("neurons", 0, 2)),
        np.array([0.4, 0.002, 0.1]),
        np.array([0.01, 0.01, 0.2]),
        "benjamini-hochberg",
    )
    assert singles.needed.tolist() == [True, False, False]
    assert singles.detected.tolist() == [True, True, False]
    assert needed_record(singles)["heads"] == {"components": 2, "needed": 1, "detected": 2}
    assert singles_records(singles)[2] == {"site": "neurons", "layer": 0, "index": 2, "drop": 0.1, "p": 0.2}


def test_heads_are_removed_from_the_whole_model(bench):
    found = best_heads(bench, {"joy": [(0, 1), (1, 1)], "awe": [(2, 2), (0, 0)]})
    gone = Kept({"heads": [(1, 1)]}, outside=True)
    assert found["joy"].drops[1] == pytest.approx(1 - f(bench, gone, "joy"))
    assert found["joy"].adjusted == "max-statistic"
    with pytest.raises(CircuitError, match="at least one candidate"):
        best_heads(bench, {e: [] for e in EMOTIONS})


def test_other_words_are_read_like_the_named_ones(bench):
    names, ratio = in_words(bench, circuit(), [circuit({"joy": [(0, 3)], "awe": [(0, 3)]})], 0)
    alone = against_random(bench, circuit(), [circuit()]).circuit.values[0]
    assert values_record(names, ratio)["alone"]["faithfulness"] == pytest.approx(alone)


def test_specificity_reads_every_circuit_along_every_direction(bench, model):
    found = removed_readings(bench, circuit())
    lost = Kept(held("joy"), outside=True)
    assert float(found[0, 1]) == pytest.approx(1 - f(bench, lost, "awe"))
    prompts = [[4, 5, 9], [4, 5, 6, 7]]
    plan = add({(2, 1): torch.ones(12)}, "heads", tokens="last")
    driven = driven_readings(model, prompts, [Plan(), plan], bench.reference)
    assert driven[0].abs().max() == 0
    alone = [driven_readings(model, [ids], [plan], bench.reference)[0] for ids in prompts]
    assert close(driven[1], sum(alone) / 2, 1e-9)
