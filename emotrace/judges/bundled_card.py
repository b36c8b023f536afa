"""The bundled judge's card: confusion matrices on held-out text, how it was made, what it cannot do."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emotrace.artifacts import write_json
from emotrace.judges.base import ABSTAIN, INCOHERENT, Reply
from emotrace.judges.bundled import BundledJudge
from emotrace.judges.bundled_corpus import Text, incoherent_texts, own_texts
from emotrace.judges.bundled_corrupt import TRAINED, UNSEEN
from emotrace.judges.bundled_guests import HALVES, grammar_texts

PER_CLASS = 300
BROKEN = 100
_TEXT = """# The bundled judge

`emotrace.judges.bundled.BundledJudge`: {labels}; abstention under a best score of {threshold:.2f}.
It reads the reply's text alone: no prompt, no target.
Written by `python -m emotrace.judges.bundled_train`; the same numbers are in `card.json`.

## How it was made
Two logistic regressions (scikit-learn, seed {seed}) over hashed features. *Order*: n-grams of function words, word
endings and word classes, spelling, repetition, completeness; says whether the text is coherent. *Content*: words, word
pairs and letter 3-5-grams; says which emotion, or neutral. Score of a label: p(coherent) x p(label), or p(incoherent).

Training text: sentences, frames and word lists written for this judge in `texts/` (registers spoken, diary, letter,
terse, reply, chat; events of every valence with every class, also neutral), and replies of the bundled model's grammar
that use only half of its phrases (chosen by hash), on training scenes. Incoherent text is made from both by
{trained}.
The abstention threshold was chosen on validation text, at a cost of half an error per abstention.

## Held-out results
*Held-out twin*: the same training on 65 % of our own sentences and frames; others test it (word lists are shared).
*Shipped*: all our own text, but still only half of the grammar's phrases. Rows: truth (broken text: how it was broken).
`unseen half` uses only phrases that no judge was trained on, about test scenes: harder than any real set of replies, in
which phrases of both halves mix (`all phrases`).
"""
_LIMITS = """## Limits
- Accuracy is a property of text like this: short English replies in one clear emotion. On our own unseen sentences,
  whose words it often never saw, it is far from its accuracy in the bundled domain.
- It cannot see sarcasm, mixed emotions, or who feels the emotion ("she was furious" reads as anger).
- Two swapped neighbours, a wrong object or a wrong person are coherent to it: the structural judge is for those.
- Text in other languages gets some label or an abstention; empty text is incoherent.
- The same hands wrote the texts and knew of the bundled model, so "unseen" means phrases and words, not another author.
"""


def write_card(folder: Path, shipped: BundledJudge, twin: BundledJudge, *, seed: int) -> None:
    """Measure both judges on test text and write ``card.json`` and ``CARD.md`` to ``folder``."""
    rng = random.Random(f"{seed}/test")
    own = own_texts(rng, "test", PER_CLASS)
    unseen, every = (grammar_texts(rng, "test", half, PER_CLASS) for half in (HALVES[1], None))
    sets: dict[str, tuple[BundledJudge, Sequence[Text]]] = {
        "own unseen sentences (held-out twin)": (twin, own),
        "model grammar, unseen half (shipped)": (shipped, unseen),
        "model grammar, all phrases (shipped)": (shipped, every),
        "broken, trained kinds, own unseen sentences and unseen half (held-out twin)": (
            twin, incoherent_texts(rng, [*own, *unseen], tuple(TRAINED), BROKEN * len(TRAINED)),
        ),
        "broken, kinds never trained on, own unseen sentences and unseen half (held-out twin)": (
            twin, incoherent_texts(rng, [*own, *unseen], tuple(UNSEEN), BROKEN * len(UNSEEN)),
        ),
        "broken, all kinds, model grammar, all phrases (shipped)": (
            shipped, incoherent_texts(rng, every, (*TRAINED, *UNSEEN), BROKEN * len(TRAINED | UNSEEN)),
        ),
    }  # fmt: skip
    results = {name: measure(judge, texts) for name, (judge, texts) in sets.items()}
    settings = {"seed": seed, "labels": list(shipped.labels), "threshold": shipped.weights.threshold}
    write_json(folder / "card.json", settings | {"held_out": results})
    head = _TEXT.format(
        labels=", ".join(shipped.labels), threshold=shipped.weights.threshold, seed=seed, trained=", ".join(TRAINED)
    )
    tables = [_table(name, result, (*shipped.labels, ABSTAIN)) for name, result in results.items()]
    (folder / "CARD.md").write_text("\n".join([head, *tables, _LIMITS]), encoding="utf-8")


def measure(judge: BundledJudge, texts: Sequence[Text]) -> dict[str, Any]:
    """Accuracy (an abstention is wrong), share abstained, and confusion {truth: {verdict: count}}."""
    verdicts = judge.judge([Reply(text.text) for text in texts])
    rows: dict[str, Counter[str]] = {}
    for text, verdict in zip(texts, verdicts, strict=True):
        row = text.source if text.label == INCOHERENT else text.label
        rows.setdefault(row, Counter())[verdict.label] += 1
    right = sum(verdict.label == text.label for text, verdict in zip(texts, verdicts, strict=True))
    unsure = sum(verdict.label == ABSTAIN for verdict in verdicts)
    return {
        "n": len(texts),
        "accuracy": right / len(texts),
        "abstained": unsure / len(texts),
        "confusion": {row: dict(counts) for row, counts in rows.items()},
    }


def _table(name: str, result: Mapping[str, Any], columns: Sequence[str]) -> str:
    lines = [
        f"### {name}",
        f"accuracy {result['accuracy']:.4f}, abstained {result['abstained']:.4f}, n = {result['n']}",
        "",
        f"| truth | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for row, counts in result["confusion"].items():
        lines.append(f"| {row} | {' | '.join(str(counts.get(column, 0)) for column in columns)} |")
    return "\n".join(lines) + "\n"
