"""Replies: how each emotion, and no emotion, speaks about a scene."""

import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from emotrace.data.concepts import NEUTRAL, PAPER_SIX
from emotrace.models.bundled.scenes import Scene
from emotrace.models.bundled.vocabulary import table

STYLES = (*PAPER_SIX.labels, NEUTRAL)
FAVOURITE_SHARE = 0.6
T = TypeVar("T")


def style(label: str) -> Mapping[str, Any]:
    """The word table of one emotion or of ``"neutral"``."""
    found: Mapping[str, Any] = table("replies")[label]
    return found


def write_reply(rng: random.Random, scene: Scene, label: str) -> tuple[str, int]:
    """A reply about ``scene`` in ``label``, and how many characters of it open it (interjection with its comma).

    Which words are used leans on the scene (theme, valence, place, time), so that greedy replies of a trained model
    differ between scenes; every other word stays possible.
    """
    words = style(label)

    def pick(slot: str, *keys: object) -> str:
        return _lean(rng, words[slot], label, slot, *keys)

    opener = pick("interjections", scene.theme, scene.valence) + ", "
    lead = pick("leads", scene.place, scene.valence)
    if rng.random() < 0.1:
        opener, lead = "", lead[0].upper() + lead[1:]
    adverb = f" {pick('adverbs', scene.theme)}" if _lean(rng, (True, False), label, "adverb?", scene.place) else ""
    determiner = (
        pick("determiners", scene.place) if _lean(rng, (False, False, True), label, "det?", scene.time) else "the"
    )
    ending = _lean(rng, ("tail", "how", "none"), label, "tail?", scene.time, scene.valence)
    tail = {"tail": f" {pick('tails', scene.theme)}", "how": f" {scene.how}", "none": ""}[ending]
    end = pick("ends", scene.time)
    first = f"{opener}{lead} {scene.person}{adverb} {scene.verb} {determiner} {scene.noun}{tail}{end}"
    if rng.random() < 0.08:
        return first, len(opener)
    second = pick("seconds", scene.theme, scene.time).format(
        act=pick("acts", scene.place),
        body=pick("bodies", scene.theme, scene.place),
        vow=pick("vows", scene.place),
        person=scene.person,
        noun=scene.noun,
    )
    return f"{first} {second[0].upper()}{second[1:]}{pick('ends', scene.place)}", len(opener)


def _lean(rng: random.Random, options: Sequence[T], *keys: object) -> T:
    if rng.random() < FAVOURITE_SHARE:
        return options[zlib.crc32("/".join(map(str, keys)).encode()) % len(options)]
    return rng.choice(options)
