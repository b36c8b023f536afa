"""Replies of the bundled model's own grammar, in two halves: the judge is trained on one and tested on the other."""

import random
import re
from functools import cache

from emotrace.judges.bundled_corpus import CLASSES, Text, part_of
from emotrace.models.bundled.grammar import Scene, sample_reply, sample_scenario
from emotrace.models.bundled.vocabulary import table

HALVES = ("grammar, known half", "grammar, unseen half")
ALL = "grammar, all"
_TRIES = 60
_SCENES = 60


def half_of(phrase: str) -> str:
    """Which half a phrase of the grammar's reply table belongs to, by its hash."""
    return HALVES[part_of(f"half {phrase}", (50, 50)) == 1]


def grammar_texts(rng: random.Random, split: str, half: str | None, per_class: int) -> list[Text]:
    """``per_class`` replies of every class about scenes of ``split``, using phrases of ``half`` alone (None: of both).

    Phrases are the entries of the grammar's reply table for that class: openers, clauses, sentence templates and words.
    Every class replies to the same scenes, so that no object, person or event goes with a class. Raises
    ``RuntimeError`` when the grammar has too few phrases in that half to write a reply.
    """
    found: dict[str, list[Text]] = {label: [] for label in CLASSES}
    for _ in range(_SCENES * per_class):
        scene = sample_scenario(rng, split)
        for label in CLASSES:
            if len(found[label]) < per_class and (reply := _reply(rng, scene, label, half)):
                found[label].append(Text(reply, label, half or ALL))
        if all(len(texts) == per_class for texts in found.values()):
            return [text for texts in found.values() for text in texts]
    few = {label: len(texts) for label, texts in found.items()}
    raise RuntimeError(f"the grammar's reply table is too small for {per_class} replies per class of {half}: got {few}")


def _reply(rng: random.Random, scene: Scene, label: str, half: str | None) -> str | None:
    """One reply without a phrase of the other half; None when this scene's leanings hardly allow one."""
    foreign = _foreign(label, half)
    replies = (sample_reply(rng, scene, label) for _ in range(_TRIES))
    return next((reply for reply in replies if not foreign.search(reply)), None)


@cache
def _foreign(label: str, half: str | None) -> re.Pattern[str]:
    """Finds any phrase of the class that belongs to the other half."""
    phrases = [p for values in table("replies")[label].values() for p in values if re.search(r"\w", p)]
    others = [_pattern(phrase) for phrase in phrases if half is not None and half_of(phrase) != half]
    return re.compile("|".join(others) or r"(?!)", re.IGNORECASE)


def _pattern(phrase: str) -> str:
    """The phrase's words in a row, with anything where a slot stands."""
    pieces = [re.escape(piece.strip()) for piece in re.split(r"\{\w+\}", phrase)]
    return r"\b" + r"\b.{1,40}?\b".join(piece for piece in pieces if re.search(r"\w", piece)) + r"\b"
