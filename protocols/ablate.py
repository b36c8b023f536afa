"""Zero the best components and watch the emotion fade."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from emotrace.data.prompts import prompt
from emotrace.data.sev import groups
from emotrace.runner import Run, protocol
from emotrace.steps.components import Scores
from emotrace.steps.curves import dose_curve
from emotrace.steps.directions import Directions
from emotrace.trace.batches import pad_left
from emotrace.trace.edits import zero
from emotrace.trace.plan import Component, Plan
from emotrace.trace.projections import Variants, projections

KS = (1, 2, 4, 8, 16, 32, 64, 128)


@protocol(needs=["components"])
def ablate(run: Run, *, ks: tuple[int, ...] = KS, controls: int = 10, scenarios: int = 20) -> dict[str, Any]:
    """Zero the top-k neurons or heads at every token and watch the emotion score fall (Fig. 3a, 3b).

    The emotion score is the projection of the last token's final state (after the final norm) on the reference
    direction, on prompts of validation scenarios that name the emotion. Prompts take `controls` random draws of k other
    components in turn.
    """
    model, labels = run.model, run.concepts.labels
    scores = run.open("components", "scores", Scores)
    reference = run.open("directions", "directions", Directions).reference
    chosen = [g for i, g in enumerate(groups(run.data.validation[:scenarios])) if i % 3 == (i // 3) % 3]
    batches = {e: pad_left(model.encode([prompt(g, e, run.concepts) for g in chosen]), model.pad_token) for e in labels}
    clusters = {e: [g.skeleton_id for g in chosen] for e in labels}

    def curve(site: str) -> dict[str, Any]:
        def emotion_score(emotion: str, variants: Variants) -> np.ndarray:
            direction = reference[run.concepts.index(emotion)]

            def zeroed(part: Sequence[Component]) -> Plan:
                return zero(heads=part) if site == "heads" else zero(neurons=part)

            return projections(model, batches[emotion], variants, zeroed, direction).numpy()

        options: dict[str, Any] = {"seed": run.seed, "workers": model.workers, "hosted": model.remote}
        found = dose_curve(scores, site, ks, controls, clusters, emotion_score, ledger=run.ledger, **options)
        return found.summary("projection on the reference direction", run.seed)

    return {"curves": {site: curve(site) for site in model.sites}, "prompts": len(chosen) * len(labels)}
