"""The library's own path, end to end, finds exactly what was planted where nothing confounds it."""

from collections.abc import Mapping

import pytest
import torch
from sklearn.metrics import roc_auc_score

import emotrace as et
from emotrace.planted import Planted
from emotrace.trace.plan import by_layer
from tests.planted.plain import FAMILIES, GROUPS, SITES, config, falls, ordinary


class Found:
    """Discovery on a planted model, from prompts to scores."""

    def __init__(self, planted: Planted) -> None:
        self.planted, self.model = planted, et.load(planted.model, tokenizer=planted.tokenizer)
        conditions = (*planted.emotions, "neutral")
        self.prompts = {
            c: self.model.encode([et.prompt(group, c, et.PAPER_SIX) for group in GROUPS[:2]]) for c in conditions
        }
        samples = [
            et.Sample(at, tuple(ids), planted.word_ids[c]) for at, c in enumerate(conditions) for ids in self.prompts[c]
        ]
        self.statistics = et.capture(self.model, samples, conditions)
        self.directions = et.emotion_directions(self.statistics)
        self.differences = et.difference_vectors(self.statistics)
        self.scores = et.score_components(self.model, self.statistics, self.directions, self.differences)


def check_found(planted: Planted, emotion: str, site: str, scores: Mapping[tuple[int, int], float]) -> None:
    """Precision and recall 1 at the true size: every true component scores above every other one."""
    true = planted.components(emotion, site)
    known = [place in true for place in scores]
    assert sum(known) == len(true)
    assert min(scores[place] for place in true) > max(value for place, value in scores.items() if place not in true)
    assert roc_auc_score(known, [*scores.values()]) == pytest.approx(1)


def check_analytic(found: Found) -> None:
    for e, emotion in enumerate(found.planted.emotions):
        for site in SITES:
            scores = found.scores.at(site)[e]
            places = [(layer, index) for layer in range(scores.shape[0]) for index in range(scores.shape[1])]
            check_found(found.planted, emotion, site, {place: float(scores[place]) for place in places})
            true = found.planted.components(emotion, site)
            assert {*found.scores.top(site, emotion, len(true))} == {*true}


def check_causal(found: Found, site: str, every: int = 1) -> None:
    """``et.causal_scores``, the library's; and final readings of logits, by plain hooks.

    Of all planted components and every so many of the others.
    """
    planted = found.planted
    places = sorted({place for e in planted.emotions for place in planted.components(e, site)})
    places += ordinary(planted, site)[::every]
    asked = {emotion: found.prompts[emotion][:1] for emotion in planted.emotions}
    causal = et.causal_scores(found.model, asked, found.directions, site, by_layer(places, site))
    for emotion in planted.emotions:
        check_found(planted, emotion, site, {place: causal[(emotion, *place)] for place in places})
        variants = [{site: [place]} for place in places]
        parts = [falls(planted, GROUPS[0], emotion, variants[at : at + 64]) for at in range(0, len(variants), 64)]
        check_found(planted, emotion, site, dict(zip(places, torch.cat(parts).tolist(), strict=True)))


@pytest.mark.parametrize("family", FAMILIES)
def test_analytic_and_causal_scores_find_what_was_planted(family):
    found = Found(et.planted.build(config(family), seed=11))
    check_analytic(found)
    check_causal(found, "heads")


def test_a_circuit_that_was_found_drives_neutral_prompts():
    found = Found(et.planted.build(config(), seed=12))
    planted, neutral = found.planted, found.prompts["neutral"]
    influence = et.sublayer_influence(found.model, neutral, found.directions)
    circuit = et.assemble(
        found.model, found.scores, influence, found.differences, heads=2, neurons=4, allocation="global"
    )
    plans = [et.add(circuit, emotion) for emotion in planted.emotions]
    replies = et.generate_replies(found.model, neutral[:1] * len(plans), plans, max_new_tokens=5)
    assert [planted.label(reply.text) for reply in replies] == [*planted.emotions]
    for emotion in planted.emotions:
        for site in SITES:
            assert {*circuit.components(site, emotion)} == {*planted.components(emotion, site)}


def test_a_planted_model_can_be_saved_and_studied_by_name(tmp_path):
    planted = et.planted.build(config("qwen3"), seed=13)
    planted.model.save_pretrained(tmp_path)
    planted.tokenizer.save_pretrained(tmp_path)
    model = et.load(str(tmp_path))
    asked = [et.prompt(GROUPS[0], condition, et.PAPER_SIX) for condition in ("disgust", "neutral")]
    replies = et.generate_replies(model, model.encode(asked), max_new_tokens=5)
    assert [planted.label(reply.text) for reply in replies] == ["disgust", "neutral"]
    assert all(reply.stopped for reply in replies)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "seed"), [*(("llama", n) for n in range(20)), *(("qwen3", n) for n in range(4))])
def test_twenty_seeds(family, seed):
    found = Found(et.planted.build(config(family), seed=seed))
    check_analytic(found)
    for site in SITES:
        check_causal(found, site, every=1 if site == "heads" else 8)
