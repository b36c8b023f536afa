"""`python -m benchmarks [NAME...]`: run benchmarks, print their tables and keep them in `benchmarks/results`."""

import importlib
import os
import sys
from typing import Annotated

import typer

NAMES = ("discovery", "overhead", "generation", "growth", "coverage", "recovery", "seeds", "gpu")


def main(names: Annotated[list[str] | None, typer.Argument(metavar=f"[{'|'.join(NAMES)}]...")] = None) -> None:
    """Run the named benchmarks, or all of them."""
    unknown = sorted({*(names or ())} - {*NAMES})
    if unknown:
        raise typer.BadParameter(f"no benchmark {unknown[0]!r}: choose from {', '.join(NAMES)}")
    for name in names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        print(importlib.import_module(f"benchmarks.{name}").main(), flush=True)


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"  # bars would be part of what is timed
    typer.run(main)
