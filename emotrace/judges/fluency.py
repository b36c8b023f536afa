"""What a set of replies looks like as text, without a model (README, The method)."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_TOKEN = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class TextMeasures:
    """Measures of one reply or of a set.

    Attributes:
        repetition: share of a reply's word trigrams that repeat an earlier one (0 when it has none); mean over replies.
        distinct_1: distinct word tokens over all word tokens of the set, pooled (Li et al. 2016); 0 for empty text.
        distinct_2: the same for word bigrams.
        nonwords: share of the set's alphabetic words that the lexicon does not hold; NaN without a lexicon.
        length: words per reply, mean.
    """

    repetition: float
    distinct_1: float
    distinct_2: float
    nonwords: float
    length: float


def words(text: str) -> list[str]:
    """Lower-case word tokens; an apostrophe inside a word belongs to it, punctuation is dropped."""
    return [token.replace("’", "'") for token in _TOKEN.findall(text.lower())]


def measure(replies: Sequence[str], lexicon: frozenset[str] | None = None) -> TextMeasures:
    """Measures of a set of replies; ``lexicon`` holds lower-case words. An empty set measures 0 throughout."""
    tokens = [words(reply) for reply in replies]
    return TextMeasures(
        repetition=_mean([_repetition(reply) for reply in tokens]),
        distinct_1=_distinct(tokens, 1),
        distinct_2=_distinct(tokens, 2),
        nonwords=_nonwords(replies, lexicon),
        length=_mean([float(len(reply)) for reply in tokens]),
    )


def measure_reply(reply: str, lexicon: frozenset[str] | None = None) -> TextMeasures:
    """Measures of one reply."""
    return measure([reply], lexicon)


def _repetition(tokens: Sequence[str]) -> float:
    trigrams = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    total = trigrams.total()
    return (total - len(trigrams)) / total if total else 0.0


def _distinct(replies: Sequence[Sequence[str]], n: int) -> float:
    grams = Counter(gram for reply in replies for gram in zip(*(reply[i:] for i in range(n)), strict=False))
    return len(grams) / grams.total() if grams else 0.0


def _nonwords(replies: Sequence[str], lexicon: frozenset[str] | None) -> float:
    if lexicon is None:
        return math.nan
    found = [word.replace("’", "'") for reply in replies for word in _WORD.findall(reply.lower())]
    return sum(word not in lexicon for word in found) / len(found) if found else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
