"""Zero the best components and watch the emotion fade."""

from typing import Any

import nnsight
import numpy as np
import torch

from emotrace.data.prompts import prompt
from emotrace.data.sev import groups
from emotrace.runner import Run, protocol
from emotrace.steps.components import Scores
from emotrace.steps.curves import dose_curve
from emotrace.steps.directions import Directions
from emotrace.trace.apply import apply
from emotrace.trace.batches import pad_left
from emotrace.trace.edits import zero
from emotrace.trace.plan import Component

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
        def emotion_score(emotion: str, variants: list[list[list[Component]]]) -> np.ndarray:
            batch, direction = batches[emotion], reference[run.concepts.index(emotion)]
            made = {
                id(part): zero(heads=part) if site == "heads" else zero(neurons=part) for v in variants for part in v
            }
            plans = [[made[id(part)] for part in variant] for variant in variants]
            with model.lock, model.session():
                found = nnsight.save([])
                for plan in plans:
                    with model.trace(batch.ids, attention_mask=batch.mask, use_cache=False, logits_to_keep=1):
                        with torch.no_grad():
                            apply(model, plan)
                            state = model.final_norm.output[:, -1].double()
                            found.append((state @ direction.to(state.device)).cpu())
            model.count(curve_tokens=len(plans) * int(batch.mask.sum()))
            return torch.stack(found).numpy()

        options: dict[str, Any] = {"seed": run.seed, "workers": model.workers, "hosted": model.remote}
        found = dose_curve(scores, site, ks, controls, clusters, emotion_score, ledger=run.ledger, **options)
        return found.summary("projection on the reference direction", run.seed)

    return {"curves": {site: curve(site) for site in model.sites}, "prompts": len(chosen) * len(labels)}
