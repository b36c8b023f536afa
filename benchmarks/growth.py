"""Time and memory as a study grows: `python -m benchmarks growth`.

Capture of all four sites, directions, scores and exact influence at four strengths, on prompts of five emotions and
neutral ones, each size in a process of its own. Memory above the model is the peak while working minus what was
resident when model and prompts were there; above one batch, minus what was resident after one batch of each kind.
"""

from typing import Any

from benchmarks import shapes
from benchmarks.discovery import Study
from benchmarks.fresh import costs, fresh
from benchmarks.record import keep

CONDITIONS = ("anger", "sadness", "happiness", "fear", "surprise", "neutral")
BUDGET = 512
"""Small, so that 60 prompts are several batches, as 3,840 are."""
BASE = {"prompts": 480, "layers": 4, "heads": 8, "length": 48}
SIZES = {
    "prompts": (60, 240, 960, 3840),
    "layers": (2, 4, 8, 16),
    "heads": (4, 8, 16, 32),
    "length": (24, 48, 96, 192),
}
HEAD_WIDTH = 16


def measure(prompts: int, layers: int, heads: int, length: int, budget: int = BUDGET) -> dict[str, float]:
    """Costs of discovery at one size; heads are 16 wide, and the model is as wide as its heads together."""
    width = heads * HEAD_WIDTH
    model = shapes.load(shapes.llama(shapes.Shape(layers, width, heads, 3 * width)))
    listed = shapes.prompts(prompts, length, shortest=length - 8)
    study = Study(model, CONDITIONS, [listed[c :: len(CONDITIONS)] for c in range(len(CONDITIONS))], budget)
    _ = study.samples  # they are there before anything is measured
    rows = max(1, budget // length // len(CONDITIONS))  # of each condition, one batch together
    few = Study(model, CONDITIONS, [kept[:rows] for kept in study.prompts], budget)
    return costs(few.run, study.run)


def main(*, sizes: dict[str, tuple[int, ...]] | None = None, base: dict[str, int] | None = None) -> str:
    """Measure and keep the tables."""
    tables: list[tuple[str, list[dict[str, Any]]]] = []
    for axis, values in (sizes or SIZES).items():
        rows = []
        for value in values:
            found = fresh("benchmarks.growth:measure", **{**BASE, **(base or {}), axis: value})
            first = rows[0] if rows else None
            row = {
                axis: value,
                "seconds": found["seconds"],
                "MB above the model": found["peak"] / 1e6,
                "MB above one batch": found["growth"] / 1e6,
            }
            row["times the first, seconds"] = row["seconds"] / first["seconds"] if first else 1.0
            row["times the first, memory"] = row["MB above the model"] / first["MB above the model"] if first else 1.0
            rows.append(row)
        others = ", ".join(f"{value} {name}" for name, value in BASE.items() if name != axis)
        tables.append((f"{axis.capitalize()} ({others})", rows))
    return keep("growth", "Time and memory as a study grows", tables, __doc__)
