"""Push the best components on a neutral prompt and watch the emotion appear."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from emotrace.data.concepts import NEUTRAL
from emotrace.data.prompts import prompt
from emotrace.data.sev import groups
from emotrace.runner import Run, protocol
from emotrace.steps.components import Scores
from emotrace.steps.curves import dose_curve
from emotrace.steps.directions import Differences, Directions
from emotrace.trace import edits
from emotrace.trace.batches import pad_left
from emotrace.trace.plan import Component, Plan
from emotrace.trace.projections import Variants, projections

KS = (1, 2, 4, 8, 16, 32, 64, 128)


@protocol(needs=["components"])
def enhance(
    run: Run, *, ks: tuple[int, ...] = KS, controls: int = 10, scenarios: int = 20, strength: float = 1.0
) -> dict[str, Any]:
    """Add the difference vectors of the top-k neurons or heads to a neutral prompt (Fig. 3c, 3d).

    The emotion score is the projection of the last token's final state (after the final norm) on the reference
    direction. Edits act at the last prompt token. Prompts take `controls` random draws of k other components in
    turn, with their own difference vectors.
    """
    model, labels = run.model, run.concepts.labels
    scores = run.open("components", "scores", Scores)
    differences = run.open("directions", "differences", Differences)
    reference = run.open("directions", "directions", Directions).reference
    chosen = [g for i, g in enumerate(groups(run.data.validation[:scenarios])) if i % 3 == (i // 3) % 3]
    batch = pad_left(model.encode([prompt(g, NEUTRAL, run.concepts) for g in chosen]), model.pad_token)
    clusters = {e: [g.skeleton_id for g in chosen] for e in labels}

    def curve(site: str) -> dict[str, Any]:
        def emotion_score(emotion: str, variants: Variants) -> np.ndarray:
            e = run.concepts.index(emotion)
            values = differences.last[site][e]

            def pushed(part: Sequence[Component]) -> Plan:
                return edits.add({c: values[c] for c in part}, site, strength=strength, tokens="last")

            return projections(model, batch, variants, pushed, reference[e]).numpy()

        options: dict[str, Any] = {"seed": run.seed, "workers": model.workers, "hosted": model.remote}
        found = dose_curve(scores, site, ks, controls, clusters, emotion_score, ledger=run.ledger, **options)
        return found.summary("projection on the reference direction", run.seed)

    return {"curves": {site: curve(site) for site in model.sites}, "prompts": len(chosen) * len(labels)}
