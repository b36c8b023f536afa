"""The recovery benchmark on few models: its scores are what plain hooks give, its tables hold what was measured."""

import doctest
import json

import pytest
import torch

from benchmarks import record, recovery
from benchmarks.recovery import CASES, Case, main, right
from benchmarks.recovery_cases import METHODS, SITES, Trial
from tests.planted.plain import GROUPS, falls, logits, reading


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trial() -> Trial:
    return Trial(Case("inert", decoys={"inert": 1}), 0)


def test_the_reading_is_the_logit_difference(trial):
    ids = trial.prompts["fear"][0]
    with torch.no_grad():
        states = trial.planted.model.model(torch.tensor([ids])).last_hidden_state[0, -1].double()
    e = trial.planted.emotions.index("fear")
    expected = float(reading(trial.planted, "fear", logits(trial.planted, ids)))
    assert float(states @ trial.reading.reference[e]) == pytest.approx(expected, abs=1e-3)


def test_removal_and_patching_are_what_is_planted(trial):
    """A true component carries its share, and whatever else there is for the emotion does nothing."""
    for e, emotion in enumerate(trial.planted.emotions):
        for site in SITES:
            for place, fall in trial.planted.predicted[emotion][site].items():
                rest = 0.0  # what a neuron with a threshold does on neutral prompts stays when it is removed
                if site == "neurons":
                    alone = {"neurons": [place]}
                    rest = trial.planted.reading(emotion, asked="neutral") - trial.planted.reading(
                        emotion, asked="neutral", **alone
                    )
                found = float(trial.scores["removal"].at(site)[e][place])
                assert found == pytest.approx(fall - rest, abs=2e-3 * trial.planted.reading(emotion))
                if site == "neurons":
                    patched = float(trial.scores["patch-in"].at(site)[e][place])
                    assert patched == pytest.approx(fall - rest, abs=2e-3 * trial.planted.reading(emotion))


def test_shares_add_up_and_are_those_of_the_choice(trial):
    for site in SITES:
        for method in METHODS:
            quality = trial.quality(method, site)
            assert sum(quality[label] for label in recovery.LABELS) == pytest.approx(1)
            hits = [
                len({*trial.scores[method].top(site, e, len(true))} & {*true}) / len(true)
                for e in trial.planted.emotions
                for true in [trial.planted.components(e, site)]
            ]
            assert quality["true"] == pytest.approx(sum(hits) / len(hits))
    assert trial.quality("removal", "heads")["true"] == 1
    assert trial.quality("patch-in", "heads")["AUPRC"] == pytest.approx(1)
    assert trial.quality("analytic", "heads")["inert"] > 0


def test_true_heads_or_neurons_drive_as_much_as_a_prompt_and_both_twice_that(trial):
    chosen = {e: {site: [*trial.planted.components(e, site)] for site in SITES} for e in trial.planted.emotions}
    for sites, expected in ((["heads"], 1.0), (["neurons"], 1.0), (SITES, 2.0)):
        found = trial.driven(chosen, sites)
        assert found["expressed"] == 1
        assert found["of natural"] == pytest.approx(expected, abs=0.01)


def test_candidates_do_not_look_at_the_truth(trial, monkeypatch):
    before = trial.candidates()
    monkeypatch.setattr(trial, "planted", None)
    assert trial.candidates() == before


PRECISION = "Precision at the true size, heads: mean ± standard deviation (lowest seed)"


@pytest.mark.slow
def test_tables(results, monkeypatch):
    monkeypatch.setattr(recovery, "DRIVEN", ("analytic",))
    text = main(seeds=1, cases=[Case("leak 0")])
    tables = json.loads((results / "recovery.json").read_text())
    rows = {row["method"]: row["leak 0"] for row in tables[PRECISION]}
    assert [*rows] == [*METHODS]
    assert rows["analytic"] == rows["patch-in"] == {"mean": 1.0, "deviation": 0.0, "lowest": 1.0}
    assert rows["gradient, neutral prompts"]["mean"] == 0
    both, *alone = tables["Neutral prompts driven by what was recovered"]
    assert both["logit difference, of natural"]["mean"] == pytest.approx(2, abs=0.01)
    assert [row["driven"] for row in alone] == ["heads", "neurons"]
    assert "What this cannot claim" in text


@pytest.mark.slow
def test_each_score_falls_for_its_decoys_and_confirmation_for_none(results):
    main(seeds=1, cases=[case for case in CASES if case.name == "leak 0" or case.decoys])
    tables = json.loads((results / "recovery.json").read_text())
    (summary,) = tables["Score, then confirm, all decoys"]
    assert summary["right class"]["lowest"] >= 0.95
    (heads,) = [row for row in tables["Classes given to candidates, heads"] if row["planted"] == "true"]
    assert heads["true"] == 12
    falling = {
        (row["site"], row["method"]): row["falls for"]
        for row in tables["Which decoy a score falls for, each kind alone"]
    }
    assert "inert" in falling["heads", "analytic"]
    assert "backup" in falling["heads", "removal"]
    assert falling["heads", "patch-in"] == "cancelling"


@pytest.mark.slow
def test_processes_share_models(results):
    cases = [Case("leak 0")]
    one, several = main(seeds=2, cases=cases), main(seeds=2, cases=cases, workers=2)
    assert one == several


def test_what_is_right():
    assert right("true", "true")
    assert right("another emotion's", "inert")
    assert not right("inert", "undecided")
    assert doctest.testmod(recovery).failed == 0


def test_hooks_agree_with_removal_of_heads_that_rest_at_nothing(trial):
    """Planted heads copy nothing on neutral prompts, so that removing them to neutral values is zeroing them."""
    site, emotion = "heads", "anger"
    places = trial.planted.components(emotion, site)
    by_hooks = falls(trial.planted, GROUPS[0], emotion, [{site: [place]} for place in places]).tolist()
    scores = trial.scores["removal"].heads[trial.planted.emotions.index(emotion)]
    for place, fall in zip(places, by_hooks, strict=True):
        assert float(scores[place]) == pytest.approx(fall, abs=2e-3 * trial.planted.reading(emotion))
