"""Train the bundled judge and write its weights and card: ``python -m emotrace.judges.bundled_train``."""

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from emotrace.judges.base import INCOHERENT
from emotrace.judges.bundled import FOLDER, WEIGHTS, BundledJudge, BundledWeights
from emotrace.judges.bundled_card import write_card
from emotrace.judges.bundled_corpus import CLASSES, WHOLE, Text, incoherent_texts, own_texts
from emotrace.judges.bundled_corrupt import TRAINED
from emotrace.judges.bundled_features import content_features, order_features
from emotrace.judges.bundled_guests import HALVES, grammar_texts

PER_CLASS = {"train": 2500, "validation": 400}
ABSTENTION_COST = 0.5
THRESHOLDS = tuple(round(0.25 + 0.01 * i, 2) for i in range(61))


def labelled(seed: int, part: str, split: str, half: str | None, per_class: int) -> list[Text]:
    """Own texts of ``part``, half as many of the grammar's ``half`` about scenes of ``split``, and broken versions."""
    rng = random.Random(f"{seed}/{part}")
    coherent = own_texts(rng, part, per_class) + grammar_texts(rng, split, half, per_class // 2)
    return coherent + incoherent_texts(rng, coherent, tuple(TRAINED), len(coherent) // 2)


def fit(texts: Sequence[Text], *, seed: int) -> BundledWeights:
    """Two logistic regressions, order and content; the threshold is still 0."""
    plain = [text.text for text in texts]
    labels = np.array([text.label for text in texts])
    broken = labels == INCOHERENT
    order = LogisticRegression(C=0.02, solver="liblinear", random_state=seed)
    order.fit(order_features(plain), broken)
    content = LogisticRegression(C=30.0, max_iter=300, random_state=seed)
    kept = np.flatnonzero(~broken)
    content.fit(content_features([plain[i] for i in kept]), [CLASSES.index(labels[i]) for i in kept])
    return BundledWeights(
        content=torch.from_numpy(content.coef_).half(),
        content_bias=torch.from_numpy(content.intercept_).float(),
        order=torch.from_numpy(order.coef_[0]).half(),
        order_bias=torch.from_numpy(order.intercept_).float(),
        classes=CLASSES,
        threshold=0.0,
    )


def choose_threshold(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The threshold with the least cost per validation text: 1 for a wrong label, ``ABSTENTION_COST`` to abstain.

    ``scores`` [N, labels], ``truth`` [N] label indices. The smallest one among equals.
    """
    best, wrong = scores.max(axis=1), scores.argmax(axis=1) != truth
    costs = [np.where(best < t, ABSTENTION_COST, wrong).mean() for t in THRESHOLDS]
    return THRESHOLDS[int(np.argmin(costs))]


def train(seed: int, part: str) -> BundledJudge:
    """A judge fitted on the own texts of ``part`` and the grammar's first half; it never sees test text.

    The threshold is chosen by a judge fitted on the training part, on validation text, whatever ``part`` is: a judge
    that was fitted on all own sentences has none left to choose on.
    """
    known = HALVES[0]
    fitted = fit(labelled(seed, "train", "train", known, PER_CLASS["train"]), seed=seed)
    held = labelled(seed, "validation", "validation", known, PER_CLASS["validation"])
    truth = np.array([(*CLASSES, INCOHERENT).index(text.label) for text in held])
    threshold = choose_threshold(BundledJudge(fitted).scores([text.text for text in held]), truth)
    if part != "train":
        fitted = fit(labelled(seed, part, "train", known, PER_CLASS["train"]), seed=seed)
    return BundledJudge(replace(fitted, threshold=threshold))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: train, write ``judge.safetensors``, ``card.json`` and ``CARD.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for weights and card")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    judge = train(options.seed, WHOLE)
    judge.weights.save(options.out / WEIGHTS)
    write_card(options.out, judge, train(options.seed, "train"), seed=options.seed)
    print((options.out / "CARD.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
