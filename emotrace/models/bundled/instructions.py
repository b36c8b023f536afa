"""Instructions that ask for an emotion: named, paraphrased, implied, against a negated one, beside a distractor."""

import random
import zlib
from functools import cache

from emotrace.data.concepts import PAPER_SIX
from emotrace.models.bundled.vocabulary import table

KINDS = ("named", "paraphrase", "implied", "negated", "distractor")
HELD_OUT_PAIRS = 0.15


def draw_instruction(rng: random.Random, label: str, kind: str, split: str = "train", *, wide: bool = False) -> str:
    """One instruction asking for ``label``.

    The test split uses templates that training never sees. Training also never sees the held-out pairs (about 15 %)
    of situation and behaviour, and of asked and unasked word, that are chosen by a checksum. ``wide`` adds further
    templates to those of training.
    """
    words = table("instructions")
    others = [other for other in PAPER_SIX.labels if other != label]
    while True:
        other = rng.choice(others)
        n1, a1 = rng.choice(words["nouns"][other]), rng.choice(words["adjectives"][other])
        verb = rng.choice(words["verbs"])
        slots = {
            "label": label,
            "V": verb,
            "v": verb.lower(),
            "n": rng.choice(words["nouns"][label]),
            "a": rng.choice(words["adjectives"][label]),
            "n1": n1,
            "a1": a1,
            "s": rng.choice(words["situations"][label]),
            "b": rng.choice(words["behaviors"][label]),
        }
        if split == "train" and _held_out(slots["s"] + slots["b"]) and kind == "implied":
            continue
        if split == "train" and kind == "negated" and (_held_out(slots["n"] + n1) or _held_out(slots["a"] + a1)):
            continue
        if kind != "distractor":
            extra = words[kind].get("wide", []) if wide and split == "train" else []
            return str(rng.choice(words[kind][split] + extra)).format(**slots)
        distraction = rng.choice(words["distractors"][split]).format(**slots)
        plain = PAPER_SIX.instruction.format(concept=label)
        asked = (
            plain if rng.random() < 0.5 else draw_instruction(rng, label, rng.choice(("named", "paraphrase")), "train")
        )
        return str(rng.choice(words["distractor_orders"][split]).format(d=distraction, i=asked))


def draw_free(rng: random.Random) -> str:
    """An instruction that leaves the mood open; empty for no system message at all."""
    return str(rng.choice(table("instructions")["free"]))


@cache
def held_out_instructions(per_emotion: int = 8, seed: int = 7) -> dict[str, dict[str, tuple[str, ...]]]:
    """Wordings that training never sees: kind -> emotion -> ``per_emotion`` instructions, deterministic."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for kind in KINDS:
        found[kind] = {}
        for label in PAPER_SIX.labels:
            rng = random.Random(f"{seed}/{kind}/{label}")
            texts: dict[str, None] = {}
            while len(texts) < per_emotion:
                texts[draw_instruction(rng, label, kind, "test")] = None
            found[kind][label] = tuple(texts)
    return found


def _held_out(pair: str) -> bool:
    return zlib.crc32(pair.encode()) % 100 < 100 * HELD_OUT_PAIRS
