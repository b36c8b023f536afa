"""Text features of the bundled judge: what a reply says (words, letters) and whether its order is English.

Nothing is fitted here: n-grams are hashed by scikit-learn's ``HashingVectorizer``, so weights alone define a judge.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, HashingVectorizer

_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[.!?,;:\"()-]|\S")
_WORD = re.compile(r"[^\W\d_]")
_ENDINGS = ("ing", "ed", "ly", "tion", "ness", "er", "est", "al", "ous", "ful", "ic", "ive", "ble", "y", "s")
_TAGS = {
    word: tag
    for tag, words in {
        "SUB": "i you he she it we they who everyone everybody nobody somebody someone anybody anyone nothing "
        "something everything that this there it's that's there's one",
        "SUBV": "i'm you're he's she's we're they're i've you've they've we've i'll you'll they'll we'll i'd you'd "
        "they'd who's",
        "OBJ": "me him us them myself yourself himself herself themselves",
        "DET": "the a an my your his her its our their every each no some any these those another both such",
        "PREP": "of in on at to for from with without by about into over under after before behind between through "
        "during against near since until beside above below off out up down around across toward towards past along",
        "CONJ": "and or but because so if when while than as though although yet nor unless whether",
        "BE": "am is are was were be been being isn't wasn't aren't weren't",
        "AUX": "do does did have has had don't doesn't didn't haven't hasn't hadn't",
        "MOD": "can could will would shall should may might must can't cannot couldn't won't wouldn't shouldn't",
        "WH": "what why how where which whose",
        "NEG": "not never",
        "DEG": "very really too quite just even only almost always already again still ever now then here so",
        "VERB": "let make makes made say says said get got go goes went gone come comes came know knew think "
        "thought feel feels felt want wants wanted tell told take took see saw heard hear keep kept leave left give "
        "gave find found put need needs please lost look looked",
    }.items()
    for word in words.split()
}
_CLOSED = ENGLISH_STOP_WORDS | set(_TAGS) | {"dear", "oh", "ah", "wow", "ugh", "let's", "what's"}
_DENSE = 14
_LOOP = 5.0


def tokens(text: str) -> list[str]:
    """Lower-case words, numbers and punctuation marks in order."""
    return _TOKEN.findall(text.lower().replace("’", "'"))


def content_features(texts: Sequence[str]) -> sparse.csr_matrix:
    """Word 1-2-grams and letter 3-5-grams, each block of unit length: [N, 65536] float64."""
    return sparse.csr_matrix(sparse.hstack([_WORDS.transform(texts), _LETTERS.transform(texts)]))


def order_features(texts: Sequence[str]) -> sparse.csr_matrix:
    """What shows broken order or broken words: [N, 49166] float64.

    Presence of 1-2-grams of the text's skeleton (function words and punctuation as they are, other words by their
    ending) and of 2-4-grams of word classes; letter 2-4-grams; measures of repetition, length and completeness.
    """
    dense = np.array([_measures(tokens(text)) for text in texts]).reshape(-1, _DENSE)
    return sparse.csr_matrix(
        sparse.hstack([_SKELETONS.transform(texts), _SPELLING.transform(texts), sparse.csr_matrix(dense)])
    )


def _content_grams(text: str) -> Iterator[str]:
    found = [token for token in tokens(text) if _WORD.match(token) or token in "!?"]
    yield from found
    yield from (f"{a} {b}" for a, b in zip(["<", *found], [*found, ">"], strict=True))


def _kind(token: str) -> str:
    if token in _CLOSED or not _WORD.match(token):
        return "0" if token.isdigit() else token
    return next((f"-{ending}" for ending in _ENDINGS if token.endswith(ending) and len(token) > len(ending) + 1), "-")


def _skeleton_grams(text: str) -> Iterator[str]:
    kinds = [_kind(token) for token in tokens(text)]
    yield from _grams(["<", *kinds, ">"], 1, 2)
    classes = [_TAGS.get(kind, "." if kind in "!?" else kind) for kind in kinds]
    yield from _grams(["<", *classes, ">"], 2, 4)


def _grams(found: Sequence[str], shortest: int, longest: int) -> Iterator[str]:
    for n in range(shortest, longest + 1):
        yield from (f"{n} {' '.join(found[i : i + n])}" for i in range(len(found) - n + 1))


def _measures(found: Sequence[str]) -> list[float]:
    spoken = [token for token in found if _WORD.match(token)]
    if not spoken:
        return [1.0] + [0.0] * (_DENSE - 1)
    n = len(spoken)
    looped = max(_longest_loop(spoken, period) for period in range(1, 7))
    pairs = list(pairwise(spoken))
    triples = list(zip(spoken, spoken[1:], spoken[2:], strict=False))
    return [
        0.0,
        np.log1p(n) / 4,
        1 - len(set(spoken)) / n,
        max(Counter(spoken).values()) / n if n > 3 else 0.0,
        float(sum(a == b for a, b in pairs)),
        (1 - len(set(pairs)) / len(pairs)) if pairs else 0.0,
        (1 - len(set(triples)) / len(triples)) if triples else 0.0,
        float(found[-1] in ".!?\"'"),
        sum(token in _CLOSED for token in spoken) / n,
        looped / n,
        *(_LOOP * (looped >= least) for least in (2, 3, 4, 6)),
    ]


def _longest_loop(spoken: Sequence[str], period: int) -> int:
    """Most words in a row that each equal the word ``period`` places before."""
    longest = run = 0
    for before, word in zip(spoken, spoken[period:], strict=False):
        run = run + 1 if word == before else 0
        longest = max(longest, run)
    return longest


def _hashing(width: int, **options: Any) -> HashingVectorizer:
    return HashingVectorizer(n_features=2**width, alternate_sign=False, **options)


_WORDS = _hashing(15, analyzer=_content_grams, norm="l2", binary=True)
_LETTERS = _hashing(15, analyzer="char_wb", ngram_range=(3, 5), norm="l2", binary=True)
_SKELETONS = _hashing(15, analyzer=_skeleton_grams, norm=None, binary=True)
_SPELLING = _hashing(14, analyzer="char_wb", ngram_range=(2, 4), norm="l2", binary=True)
