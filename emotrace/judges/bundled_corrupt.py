"""Ways to make text incoherent: those the bundled judge is trained on, and others that only test it."""

import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

Corruption = Callable[[random.Random, Sequence[str]], str]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+|[^\w\s]", text)


def _join(words: Sequence[str]) -> str:
    text = re.sub(r" ([.,!?;:])", r"\1", " ".join(words))
    return text[:1].upper() + text[1:]


def _kept(before: Sequence[str], after: Sequence[str]) -> float:
    pairs = set(pairwise(before))
    return sum(pair in pairs for pair in pairwise(after)) / max(1, len(after) - 1)


def shuffled(rng: random.Random, texts: Sequence[str]) -> str:
    """All words of one text in random order, with at most a third of the neighbours left."""
    words = _words(texts[0])
    end = [words.pop()] if words[-1] in ".!?" and rng.random() < 0.7 else []
    after = rng.sample(words, len(words))
    for _ in range(20):
        if _kept(words, after) <= 1 / 3:
            break
        after = rng.sample(words, len(words))
    return _join([w.lower() if rng.random() < 0.5 else w for w in after] + end)


def jumbled(rng: random.Random, texts: Sequence[str]) -> str:
    """Words shuffled inside windows of four or five."""
    words = _words(texts[0])
    size = rng.choice((4, 5))
    after = [w for i in range(0, len(words), size) for w in rng.sample(words[i : i + size], len(words[i : i + size]))]
    return _join(after) if _kept(words, after) <= 0.45 else shuffled(rng, texts)


def salad(rng: random.Random, texts: Sequence[str]) -> str:
    """Random words of several texts."""
    pool = [w.lower() for text in texts for w in _words(text) if w[0].isalnum()]
    return _join(rng.sample(pool, min(len(pool), rng.randint(6, 22)))) + rng.choice((".", "", "!"))


def word_loop(rng: random.Random, texts: Sequence[str]) -> str:
    """A start of a sentence, then one word over and over."""
    words = _words(texts[0])
    start = words[: rng.randint(0, min(8, len(words) - 1))]
    word = rng.choice([w for w in words if w[0].isalnum()])
    return _join([*start, *[word] * rng.randint(3, 12), *(words[-rng.randint(1, 4) :] if rng.random() < 0.4 else [])])


def phrase_loop(rng: random.Random, texts: Sequence[str]) -> str:
    """A start of a sentence, then the same few words again and again."""
    words = _words(texts[0])
    size = rng.randint(2, 5)
    at = rng.randrange(max(1, len(words) - size))
    return _join(words[:at] + words[at : at + size] * rng.randint(3, 6))


def fragment(rng: random.Random, texts: Sequence[str]) -> str:
    """A few words cut out of the middle of a sentence, ending on a small word."""
    words = [w for w in _words(texts[0]) if w[0].isalnum()]
    at = rng.randint(1, max(1, len(words) - 5))
    return " ".join([*words[at : at + rng.randint(1, 5)], rng.choice(("the", "of", "and the", "to", "a", "with my"))])


def pseudo(rng: random.Random, texts: Sequence[str]) -> str:
    """A sentence in which most content words are made up."""
    return _join([_nonsense(rng) if w.isalpha() and rng.random() < 0.7 else w for w in _words(texts[0])])


def scrambled_letters(rng: random.Random, texts: Sequence[str]) -> str:
    """Letters shuffled inside the longer words."""
    return _join(["".join(rng.sample(w, len(w))) if len(w) > 3 else w for w in _words(texts[0])])


def emotion_list(rng: random.Random, texts: Sequence[str]) -> str:
    """Content words strung together without a sentence."""
    pool = [w.lower() for text in texts for w in _words(text) if len(w) > 4 and w.isalpha()]
    return _join(rng.sample(pool, min(len(pool), rng.randint(5, 14))))


def stitched(rng: random.Random, texts: Sequence[str]) -> str:
    """Pieces of two to four words from different texts, one after the other."""
    pieces: list[str] = []
    for text in texts[:6]:
        words = _words(text)
        at = rng.randrange(max(1, len(words) - 3))
        pieces += words[at : at + rng.randint(2, 4)]
    return _join(pieces)


def backwards(rng: random.Random, texts: Sequence[str]) -> str:
    """The words of one text from last to first."""
    return _join([w.lower() for w in _words(texts[0])[::-1] if w[0].isalnum()]) + "."


def interleaved(rng: random.Random, texts: Sequence[str]) -> str:
    """Words of two texts taken in turn."""
    return _join([w for pair in zip(_words(texts[0]), _words(texts[1]), strict=False) for w in pair])


def subwords(rng: random.Random, texts: Sequence[str]) -> str:
    """Pieces of words, as from a model that lost its spelling: shuffled two- to four-letter chunks."""
    letters = "".join(w.lower() for w in _words(texts[0]) if w.isalpha())
    pieces, at = [], 0
    while at < len(letters):
        size = rng.randint(2, 4)
        pieces.append(letters[at : at + size])
        at += size
    rng.shuffle(pieces)
    return "".join(piece + (" " if rng.random() < 0.6 else "") for piece in pieces).strip()


def stutter(rng: random.Random, texts: Sequence[str]) -> str:
    """Every word twice."""
    return _join([w for w in _words(texts[0]) for _ in range(2 if w[0].isalnum() else 1)])


def alphabetical(rng: random.Random, texts: Sequence[str]) -> str:
    """The words of one text sorted."""
    return _join(sorted(w.lower() for w in _words(texts[0]) if w[0].isalnum())) + "."


TRAINED: dict[str, Corruption] = {
    f.__name__: f
    for f in (
        shuffled, jumbled, salad, word_loop, phrase_loop, fragment, pseudo, scrambled_letters, emotion_list, stitched,
    )
}  # fmt: skip
UNSEEN: dict[str, Corruption] = {f.__name__: f for f in (backwards, interleaved, subwords, stutter, alphabetical)}


def corrupt(rng: random.Random, kind: str, texts: Sequence[str]) -> str:
    """One incoherent text of ``kind`` from ``texts``, of which the longest with at least six words comes first."""
    longest = sorted(texts, key=lambda text: len(_words(text)) < 6)
    return (TRAINED | UNSEEN)[kind](rng, longest)


def _nonsense(rng: random.Random) -> str:
    onsets = ("b", "bl", "dr", "f", "gl", "k", "kr", "m", "n", "pl", "sk", "t", "v", "vr", "z", "th", "qu", "x", "")
    ends = ("b", "g", "lk", "m", "nd", "p", "rt", "x", "zz", "v", "")
    return "".join(
        rng.choice(onsets) + rng.choice(("a", "e", "i", "o", "u", "oo", "y")) + rng.choice(ends)
        for _ in range(rng.randint(1, 3))
    )
