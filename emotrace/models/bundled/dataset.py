"""Write sev-mini, the scenario set of the bundled model's domain: ``python -m emotrace.models.bundled.dataset``."""

import argparse
import random
from dataclasses import dataclass, field
from pathlib import Path

from emotrace.data.sev import VALENCES, Scenario, dump_jsonl
from emotrace.models.bundled.scenes import draw_scene
from emotrace.models.bundled.vocabulary import SPLITS

FOLDER = Path(__file__).parents[2] / "data" / "sev_mini"


@dataclass(frozen=True)
class Sizes:
    """Scenarios per split, and the seed."""

    counts: dict[str, int] = field(default_factory=lambda: {"train": 80, "validation": 40, "test": 80})
    seed: int = 11328


def make(split: str, sizes: Sizes | None = None) -> list[Scenario]:
    """The scenarios of one split, each with an event per valence; texts are unique within the split."""
    sizes = sizes or Sizes()
    rng = random.Random(f"{sizes.seed}/{split}")
    found: dict[str, Scenario] = {}
    while len(found) < sizes.counts[split]:
        base = draw_scene(rng, split)
        events = {valence: draw_scene(rng, split, valence=valence, like=base).event for valence in VALENCES}
        if base.scenario not in found:
            name = f"{base.theme}-{split}-{len(found):03d}"
            found[base.scenario] = Scenario(base.theme, base.scenario, events, name)
    return list(found.values())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        scenarios = make(split)
        dump_jsonl(scenarios, out / f"{split}.jsonl")
        print(f"{out / split}.jsonl: {len(scenarios)} scenarios")


if __name__ == "__main__":
    main()
