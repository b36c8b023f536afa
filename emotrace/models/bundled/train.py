"""Train the bundled model from scratch: ``python -m emotrace.models.bundled.train``.

Trains, evaluates on sev-mini's test split and writes weights, tokenizer, ``card.json`` and ``CARD.md`` to one folder.
"""

import argparse
from pathlib import Path

import torch

from emotrace.models.bundled import WEIGHTS
from emotrace.models.bundled.card import write_card
from emotrace.models.bundled.evaluate import evaluate, summary
from emotrace.models.bundled.training import Recipe, train

__all__ = ["WEIGHTS", "main"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--first-stage", type=int, default=0, help="go on at this stage from the weights in --out")
    parser.add_argument("--only-train", action="store_true", help="leave out the evaluation and the card")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(Recipe(seed=options.seed), options.out, first_stage=options.first_stage)
    if not options.only_train:
        figures = evaluate(options.out)
        write_card(options.out, figures)
        print(summary(figures))


if __name__ == "__main__":
    main()
