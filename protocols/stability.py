"""Would other scenarios, or other words, have given the same circuit?"""

from typing import Any

from emotrace.data.concepts import NEUTRAL
from emotrace.data.prompts import prompt
from emotrace.data.sev import groups
from emotrace.runner import Run, protocol
from emotrace.steps.circuit import EmotionCircuit
from emotrace.steps.components import Scores
from emotrace.steps.elicit import Elicitation
from emotrace.steps.influence import Influence
from emotrace.steps.stability import agreement, in_other_words, over_scenarios
from emotrace.trace.capture import Sample


@protocol(needs=["circuit"])
def stability(run: Run, *, draws: int = 20, wording_scenarios: int = 40) -> dict[str, Any]:
    """Find components again on resampled scenarios, and from instructions that paraphrase or only imply the emotion.

    Jaccard overlap of the circuits' components and rank correlation of all scores, beside the circuit's own; budgets
    and influence stay those of the study. Scenarios: `draws` Poisson bootstrap draws of the training scenarios.
    Wordings: `wording_scenarios` training scenarios, whose groups take the wordings in turn; whether the model follows
    them is for the stage `quality` to show.
    """
    labels, conditions = run.concepts.labels, (*run.concepts.labels, NEUTRAL)
    circuit = run.open("circuit", "circuit", EmotionCircuit)
    scores = run.open("components", "scores", Scores)
    influence = run.open("influence", "influence", Influence)
    replies = Elicitation.from_records(labels, run.records("elicit", "replies")).accepted()
    options: dict[str, Any] = {"batch_tokens": run.batch_tokens, "ledger": run.ledger}
    found = {
        "scenarios": over_scenarios(
            run.model,
            [Sample(conditions.index(r.condition), r.prompt_ids) for r in replies],
            conditions,
            [r.skeleton_id for r in replies],
            draws=draws,
            seed=run.seed,
            **options,
        )
    }
    chosen = groups(run.data.train[:wording_scenarios])
    for kind, wordings in run.concepts.wordings.items():
        asked = [
            (c, prompt(g, c, run.concepts, instruction=wordings[c][i % len(wordings[c])] if c != NEUTRAL else None))
            for i, g in enumerate(chosen)
            for c in conditions
        ]
        ids = run.model.encode([p for _, p in asked])
        samples = [Sample(conditions.index(c), tuple(row)) for (c, _), row in zip(asked, ids, strict=True)]
        found[kind] = [in_other_words(run.model, samples, conditions, name=f"capture_{kind}", **options)]
    return {
        "draws": len(found["scenarios"]),
        "scenarios": len({r.skeleton_id for r in replies}),
        "sources": {
            kind: {site: agreement(circuit, scores, again, influence, site).summary(labels) for site in run.model.sites}
            for kind, again in found.items()
        },
    }
