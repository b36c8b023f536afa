"""The grammar's word tables, read from ``tables/*.json``, and random pseudo-words."""

import json
import random
from functools import cache
from importlib import resources
from typing import Any

SPLITS = ("train", "validation", "test")
_ONSETS = (
    "b",
    "d",
    "f",
    "g",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "z",
    "br",
    "dr",
    "fl",
    "gr",
    "pl",
    "st",
    "tr",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "oo")
_CODAS = ("", "b", "d", "g", "k", "l", "m", "n", "p", "r", "t", "x", "sh", "nd", "rk")


@cache
def table(name: str) -> dict[str, Any]:
    """One of the tables ``scenes``, ``events``, ``replies``, ``instructions``."""
    text = (resources.files("emotrace.models.bundled") / "tables" / f"{name}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def pseudo_word(rng: random.Random) -> str:
    """A pronounceable word of one to three syllables that means nothing."""
    count = rng.choice((1, 2, 2, 3))
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)]
    return "".join(syllables) + rng.choice(_CODAS)
