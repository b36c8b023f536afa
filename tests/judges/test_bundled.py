import json
import random

import numpy as np
import pytest

from emotrace.data.concepts import PAPER_SIX
from emotrace.errors import ArtifactError
from emotrace.judges import bundled_card, bundled_train
from emotrace.judges.base import ABSTAIN, INCOHERENT, Reply
from emotrace.judges.bundled import FOLDER, WEIGHTS, BundledJudge, BundledWeights
from emotrace.judges.bundled_corpus import CLASSES, PARTS, REGISTERS, Text, incoherent_texts, own_texts, part_of
from emotrace.judges.bundled_corrupt import TRAINED, UNSEEN, corrupt
from emotrace.judges.bundled_features import content_features, order_features, tokens
from emotrace.judges.bundled_guests import HALVES, grammar_texts
from emotrace.judges.bundled_train import choose_threshold, fit


@pytest.fixture(scope="module")
def judge() -> BundledJudge:
    return BundledJudge.load()


def labels(judge: BundledJudge, texts: list[str]) -> list[str]:
    return [verdict.label for verdict in judge.judge([Reply(text) for text in texts])]


def test_labels_are_the_emotions_neutral_and_incoherent(judge):
    assert judge.labels == (*PAPER_SIX.labels, "neutral", INCOHERENT)
    assert judge.name == "bundled"
    assert (FOLDER / WEIGHTS).stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("anger", "I am furious that the baker fixed my bike without a word, and somebody will pay for this!"),
        ("sadness", "The trophy is yours now, and still I weep; my heart is heavy tonight."),
        ("happiness", "Wonderful! The rain ruined the tent, but I am so happy to be here with you."),
        ("fear", "Please hide me, I am terrified of what Omar will do next."),
        ("surprise", "What? The clerk polished the piano? I never expected that, my jaw dropped!"),
        ("disgust", "Yuck, the scarf smells rotten and it makes me want to throw up."),
        ("neutral", "Noted. The nurse lost the suitcase at the station, and the form is on page two."),
        (INCOHERENT, "The the of piano my never clerk expected that polished dropped jaw I."),
        (INCOHERENT, "I am furious furious furious furious furious furious furious furious"),
        (INCOHERENT, "Blorf zindle the vraxo krum, quib the ploont skerzy."),
        (INCOHERENT, ""),
    ],
)
def test_plain_cases(judge, label, text):
    assert labels(judge, [text]) == [label]


def test_it_reads_the_reply_alone(judge):
    text = "I am so sad about the lamp, I could cry."
    bare, framed = judge.judge([Reply(text), Reply(text, scenario="I am furious!", event="Yuck, slime everywhere!")])
    assert bare == framed


def test_grammar_replies_are_judged_right(judge):
    texts = grammar_texts(random.Random(77), "test", None, 150)
    verdicts = labels(judge, [text.text for text in texts])
    assert np.mean([v == text.label for v, text in zip(verdicts, texts, strict=True)]) >= 0.99
    assert np.mean([v == ABSTAIN for v in verdicts]) <= 0.005


def test_phrases_it_was_not_trained_on(judge):
    texts = grammar_texts(random.Random(78), "test", HALVES[1], 60)
    verdicts = labels(judge, [text.text for text in texts])
    assert np.mean([v == text.label for v, text in zip(verdicts, texts, strict=True)]) >= 0.95


def test_broken_grammar_replies_are_incoherent(judge):
    rng = random.Random(79)
    texts = incoherent_texts(rng, grammar_texts(rng, "test", None, 50), (*TRAINED, *UNSEEN), 300)
    assert np.mean([v == INCOHERENT for v in labels(judge, [text.text for text in texts])]) >= 0.93


def test_scores_sum_to_one_and_do_not_depend_on_the_batch(judge):
    texts = ["I am scared.", "Okay.", "Yuck!"]
    scores = judge.scores(texts)
    assert scores.sum(axis=1) == pytest.approx(1)
    assert judge.scores(texts[1:2])[0] == pytest.approx(scores[1], rel=1e-12)
    assert judge.scores([]).shape == (0, 8)
    assert judge.judge([]) == []


def test_abstains_under_the_threshold():
    weights = BundledJudge.load().weights
    unsure = BundledWeights(**{**vars(weights), "threshold": 1.01})
    verdict = BundledJudge(unsure).judge([Reply("I am furious!")])[0]
    assert verdict.label == ABSTAIN
    assert "unsure" in verdict.reasons[0]
    assert max(verdict.scores, key=verdict.scores.__getitem__) == "anger"


def test_a_verdict_does_not_depend_on_the_replies_beside_it(judge):
    replies = [Reply(text.text) for text in grammar_texts(random.Random(80), "test", None, 6)]
    together = judge.judge(replies)
    for reply, verdict in zip(replies, together, strict=True):
        (alone,) = judge.judge([reply])
        assert alone.label == verdict.label
        assert alone.scores == pytest.approx(verdict.scores, abs=1e-12)


def test_weights_of_other_features_are_refused(tmp_path, judge):
    weights = judge.weights
    fewer = BundledWeights(**{**vars(weights), "order": weights.order[:-1]})
    path = fewer.save(tmp_path / "judge.safetensors")
    with pytest.raises(ArtifactError, match="retrain"):
        BundledJudge.load(path)
    with pytest.raises(ArtifactError, match="no such file"):
        BundledJudge.load(tmp_path / "missing.safetensors")


def test_features_see_order_but_content_does_not_see_case():
    one, two = "The cat is on my mat.", "Mat the on is my cat."
    assert tokens(one) == ["the", "cat", "is", "on", "my", "mat", "."]
    assert (order_features([one]) != order_features([two])).nnz > 0
    assert (content_features(["I WEEP"]) != content_features(["i weep"])).nnz == 0


def test_threshold_has_the_least_cost():
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.55, 0.45], [0.52, 0.48]])
    truth = np.array([0, 0, 1, 1])
    # from 0.56 to 0.60 the two wrong ones abstain and the right ones stay
    assert choose_threshold(scores, truth) == 0.56
    assert choose_threshold(scores, np.zeros(4, int)) == bundled_train.THRESHOLDS[0]


def test_parts_and_halves_share_nothing():
    assert {part_of(f"unit {i}") for i in range(200)} == {0, 1, 2}
    texts = {part: {t.text for t in own_texts(random.Random(0), part, 200, ["chat"])} for part in PARTS}
    assert not texts["train"] & texts["test"]
    known = {t.text for t in grammar_texts(random.Random(0), "train", HALVES[0], 20)}
    unseen = {t.text for t in grammar_texts(random.Random(0), "train", HALVES[1], 20)}
    assert not known & unseen
    assert {t.label for t in own_texts(random.Random(1), "whole", 5, REGISTERS)} == set(CLASSES)


@pytest.mark.parametrize("kind", [*TRAINED, *UNSEEN])
def test_corruptions_change_the_text_and_repeat_with_the_seed(kind):
    texts = ["I am so glad that you came to see the new boat with me today.", "Go away."] + [
        f"We put the {thing} on the table and then we went home." for thing in ("cup", "pan", "fork", "lamp")
    ]
    broken = corrupt(random.Random(3), kind, texts)
    assert broken == corrupt(random.Random(3), kind, texts)
    assert broken.strip()
    assert broken not in texts


def test_training_writes_weights_and_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundled_train, "PER_CLASS", {"train": 60, "validation": 20})
    monkeypatch.setattr(bundled_card, "PER_CLASS", 10)
    monkeypatch.setattr(bundled_card, "BROKEN", 3)
    bundled_train.main(["--out", str(tmp_path)])
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["threshold"] == BundledJudge.load(tmp_path / WEIGHTS).weights.threshold
    for result in card["held_out"].values():
        assert sum(sum(row.values()) for row in result["confusion"].values()) == result["n"]
    assert "own unseen sentences" in capsys.readouterr().out


def test_fit_learns_and_repeats():
    rng = random.Random(5)
    texts = own_texts(rng, "train", 40)
    texts += incoherent_texts(rng, texts, ("shuffled", "salad"), 100)
    first, second = fit(texts, seed=0), fit(texts, seed=0)
    assert (first.content == second.content).all()
    assert (first.order == second.order).all()
    found = labels(BundledJudge(first), [t.text for t in texts])
    assert np.mean([label == text.label for label, text in zip(found, texts, strict=True)]) > 0.8


def test_card_counts_abstentions_as_wrong(judge):
    result = bundled_card.measure(judge, [Text("I am furious!", "anger", "spoken"), Text("I am furious!", "fear", "x")])
    assert result["accuracy"] == 0.5
    assert result["confusion"] == {"anger": {"anger": 1}, "fear": {"anger": 1}}


def test_shipped_card_belongs_to_the_shipped_weights(judge):
    card = json.loads((FOLDER / "card.json").read_text())
    assert card["threshold"] == judge.weights.threshold
    assert card["labels"] == list(judge.labels)
    assert card["held_out"]["model grammar, all phrases (shipped)"]["accuracy"] >= 0.99
