"""Train the bundled model from scratch: ``python -m emotrace.models.bundled.train``.

Trains, evaluates on sev-mini's test split and writes weights, tokenizer, ``card.json`` and ``CARD.md`` to one folder.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from emotrace.models.bundled import WEIGHTS
from emotrace.models.bundled.card import write_card
from emotrace.models.bundled.evaluate import evaluate, summary
from emotrace.models.bundled.training import Recipe, train

__all__ = ["WEIGHTS", "main"]


def main() -> None:
    """Command line: every field of ``Recipe`` is an option."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-train", action="store_true", help="leave out the evaluation and the card")
    for name, value in asdict(Recipe()).items():
        kind = (lambda text: text.lower() in ("1", "true")) if isinstance(value, bool) else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    options = vars(parser.parse_args())
    out, threads, only_train = options.pop("out"), options.pop("threads"), options.pop("only_train")
    torch.set_num_threads(threads)
    print(train(Recipe(**options), out))
    if not only_train:
        figures = evaluate(out)
        write_card(out, figures)
        print(summary(figures))


if __name__ == "__main__":
    main()
