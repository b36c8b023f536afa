"""Text that teaches and tests the bundled judge: our own sentences, and the bundled model's grammar as a guest."""

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import accumulate
from typing import Any

from emotrace.data.concepts import NEUTRAL, PAPER_SIX
from emotrace.judges.base import INCOHERENT
from emotrace.judges.bundled_corrupt import corrupt

CLASSES = (*PAPER_SIX.labels, NEUTRAL)
REGISTERS = ("spoken", "diary", "letter", "terse", "reply", "chat")
PARTS = ("train", "validation", "test")
WHOLE = "whole"
_SLOTS = ("interjection", "adjective", "feeling", "want", "adverb", "noun", "verb")
_FRAMES = {NEUTRAL: "neutral frames"}
_LEXICA = {"body": "body"} | {slot: f"{slot}s" for slot in _SLOTS}


@dataclass(frozen=True)
class Text:
    """A labelled text; ``source`` names the register, the grammar's half, or the kind of corruption."""

    text: str
    label: str
    source: str


def part_of(unit: str, shares: Sequence[int] = (65, 15, 20)) -> int:
    """Index of the part that ``unit`` belongs to by its hash, parts having these ``shares`` of a hundred."""
    bucket = int.from_bytes(hashlib.sha256(unit.encode()).digest()[:4], "big") % 100
    return next(i for i, edge in enumerate(accumulate(shares)) if bucket < edge)


def own_texts(rng: random.Random, part: str, per_class: int, registers: Sequence[str] = REGISTERS) -> list[Text]:
    """``per_class`` texts of every class from the sentences and frames of ``part`` alone (all, for ``WHOLE``)."""
    return [
        Text(compose(rng, label, part, register), label, register)
        for label in CLASSES
        for register in (rng.choice(registers) for _ in range(per_class))
    ]


def incoherent_texts(rng: random.Random, texts: Sequence[Text], kinds: Sequence[str], count: int) -> list[Text]:
    """``count`` broken texts, kinds in turn, made from ``texts``."""
    pool = [text.text for text in texts]
    return [
        Text(corrupt(rng, kind, rng.sample(pool, 6)), INCOHERENT, kind)
        for kind in (kinds[i % len(kinds)] for i in range(count))
    ]


def compose(rng: random.Random, label: str, part: str, register: str) -> str:
    """One or two sentences of ``label`` in ``register``; sometimes the event is stated plainly beside them."""
    sentences = [_sentence(rng, label, part, register)]
    if rng.random() < 0.45:
        second = _sentence(rng, label, part, register)
        sentences += [second] if second not in sentences else []
    elif rng.random() < 0.25:
        sentences.insert(rng.randrange(2), _polish(_fill(rng, "{event}.", label)))
    text = " ".join(sentences)
    return text.lower().rstrip(".!") if rng.random() < 0.05 else text


def _sentence(rng: random.Random, label: str, part: str, register: str) -> str:
    whole = _units(label, register, part)
    frames = _units(_FRAMES.get(label, "emotion frames"), register, part)
    pool = whole if whole and (not frames or rng.random() < 0.5) else frames
    if not pool:
        pool = tuple(unit for other in REGISTERS for unit in _units(label, other, part))
    return _polish(_fill(rng, rng.choice(pool), label))


def _fill(rng: random.Random, template: str, label: str) -> str:
    while found := re.search(r"\{(\w+)\}", template):
        slot = found.group(1)
        options = _texts(label)[_LEXICA[slot]] if slot in _LEXICA else _texts("slots")[slot]
        template = template[: found.start()] + rng.choice(options) + template[found.end() :]
    return template


def _polish(sentence: str) -> str:
    upper = re.sub(r"([.!?] )([a-z])", lambda m: m[1] + m[2].upper(), sentence[:1].upper() + sentence[1:])
    return re.sub(r"([.!?])[.!?,]+(?=\s|$)", r"\1", upper)


@cache
def _units(name: str, register: str, part: str) -> tuple[str, ...]:
    units = _sentences(name).get(register, ())
    return tuple(unit for unit in units if part in (WHOLE, PARTS[part_of(unit)]))


def _sentences(name: str) -> Mapping[str, Sequence[str]]:
    frames = _texts("frames")
    found: Mapping[str, Sequence[str]] = frames.get(name) or _texts(name)["sentences"]
    return found


@cache
def _texts(name: str) -> Mapping[str, Any]:
    source = resources.files("emotrace.judges") / "bundled_data" / "texts" / f"{name}.json"
    loaded: Mapping[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return loaded
