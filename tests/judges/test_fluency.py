import math

import pytest

from emotrace.judges.fluency import measure, measure_reply, words


def test_words_keep_apostrophes_and_drop_punctuation():
    assert words("I can't, won't. Ha—it’s 3 a.m.!") == ["i", "can't", "won't", "ha", "it's", "3", "a", "m"]


def test_repetition_counts_trigrams_seen_before():
    # trigrams: abc bca cab abc bca -> 2 of 5 repeat
    assert measure_reply("a b c a b c a").repetition == pytest.approx(2 / 5)
    assert measure_reply("all of these words differ").repetition == 0.0
    assert measure_reply("too short").repetition == 0.0


def test_repetition_is_within_replies_and_averaged():
    assert measure(["one two three", "one two three"]).repetition == 0.0
    assert measure(["a b c a b c a", "x y z"]).repetition == pytest.approx(1 / 5)


def test_distinct_pools_the_set():
    result = measure(["The cat sat.", "the cat ran"])
    assert result.distinct_1 == pytest.approx(4 / 6)
    assert result.distinct_2 == pytest.approx(3 / 4)
    assert result.length == 3.0


def test_nonwords_ignore_numbers_and_case():
    lexicon = frozenset({"we", "don't", "like"})
    assert measure(["We don’t like 12 glorps", "blint"], lexicon).nonwords == pytest.approx(2 / 5)
    assert math.isnan(measure(["We"]).nonwords)


def test_empty_text_and_empty_set_measure_zero():
    for empty in (measure([], frozenset()), measure([""], frozenset())):
        assert (empty.repetition, empty.distinct_1, empty.distinct_2, empty.nonwords, empty.length) == (0, 0, 0, 0, 0)
