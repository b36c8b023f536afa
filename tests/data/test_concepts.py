"""The wordings of the six emotions: each asks for its own emotion, and what is implied names none."""

import re

import pytest

from emotrace.data.concepts import PAPER_SIX

NAMES = {word for listed in PAPER_SIX.lexicon.values() for word in listed}


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


@pytest.mark.parametrize("kind", ["paraphrase", "implied"])
def test_every_emotion_has_as_many_wordings_all_different(kind: str) -> None:
    wordings = PAPER_SIX.wordings[kind]
    assert set(wordings) == set(PAPER_SIX.labels)
    assert len({len(listed) for listed in wordings.values()}) == 1
    texts = [text for listed in wordings.values() for text in listed]
    assert len(set(texts)) == len(texts)
    assert all(text.endswith(".") for text in texts)


def test_implied_instructions_name_no_emotion() -> None:
    for listed in PAPER_SIX.wordings["implied"].values():
        for text in listed:
            assert not words(text) & NAMES
            assert not words(text) & set(PAPER_SIX.labels)


def test_paraphrases_use_other_words_than_the_label() -> None:
    for label, listed in PAPER_SIX.wordings["paraphrase"].items():
        for text in listed:
            others = {w for other, listed_words in PAPER_SIX.lexicon.items() if other != label for w in listed_words}
            assert label not in words(text)
            assert not words(text) & others
