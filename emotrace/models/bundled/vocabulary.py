"""The grammar's word tables, read from ``tables/*.json``, and random pseudo-words."""

import json
import random
from collections.abc import Callable, Iterable
from functools import cache
from importlib import resources
from typing import Any

SPLITS = ("train", "validation", "test")
Coin = Callable[[random.Random], str]
"""Coins a word that means nothing."""

_ONSETS = (*"bdfgklmnprstvz", "br", "dr", "fl", "gr", "pl", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "oo")
_CODAS = ("", "b", "d", "g", "k", "l", "m", "n", "p", "r", "t", "x", "sh", "nd", "rk")


@cache
def table(name: str) -> dict[str, Any]:
    """One of the tables ``scenes``, ``events``, ``replies``, ``instructions``."""
    text = (resources.files("emotrace.models.bundled") / "tables" / f"{name}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def pseudo_word(rng: random.Random) -> str:
    """A pronounceable word that means nothing: random syllables, or a chain of letter triples of the train words."""
    if rng.random() < 0.4:
        count = rng.choice((1, 2, 2, 3))
        syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)]
        return "".join(syllables) + rng.choice(_CODAS)
    chain, known = _letter_chain()
    while True:
        word = "^^"
        while not word.endswith("$"):
            word += rng.choice(chain[word[-2:]])
        word = word.strip("^$")
        if 3 <= len(word) <= 10 and word not in known:
            return word


def piece_words(pieces: Iterable[str]) -> Coin:
    """Draws words that mean nothing, mostly chains of a tokenizer's ``pieces``, so that each piece gets copied."""
    known = sorted(pieces)
    starts = [piece[1:].lower() for piece in known if piece.startswith("\u0120") and piece[1:].isalpha()]
    inner = [piece for piece in known if piece.isalpha() and piece.isascii() and piece.islower()]

    def draw(rng: random.Random) -> str:
        if rng.random() < 0.3:
            return pseudo_word(rng)
        while True:
            word = rng.choice(starts) + "".join(rng.choice(inner) for _ in range(rng.choice((1, 1, 2))))
            if 3 <= len(word) <= 10 and word.isascii():
                return word

    return draw


@cache
def _letter_chain() -> tuple[dict[str, str], frozenset[str]]:
    """For two letters, the letters that follow them in the train split's content words; and those words."""
    scenes, events = table("scenes"), table("events")
    words = [noun for theme in scenes["themes"].values() for noun in theme["nouns"]]
    words += [name.lower() for name in scenes["names"]["train"]]
    words += [role.removeprefix("the ") for role in scenes["roles"]["train"]]
    words += [verb.removesuffix("ed") for verbs in events["verbs"].values() for verb in verbs["train"]]
    chain: dict[str, str] = {}
    for word in words:
        padded = f"^^{word}$"
        for i in range(len(padded) - 2):
            chain[padded[i : i + 2]] = chain.get(padded[i : i + 2], "") + padded[i + 2]
    return chain, frozenset(words)
