"""Assemble the emotion circuit."""

from typing import Any, Literal

from emotrace.runner import Run, protocol
from emotrace.steps.circuit import SITES, assemble, default_budgets
from emotrace.steps.components import Scores
from emotrace.steps.directions import Differences
from emotrace.steps.influence import Influence


@protocol(needs=["components", "influence"])
def circuit(
    run: Run, *, heads: int = 0, neurons: int = 0, allocation: Literal["influence", "global", "uniform"] = "influence"
) -> dict[str, Any]:
    """Share a budget of heads and neurons among sublayers by influence, and fill each share with the best components.

    `heads` and `neurons` are per emotion; 0 means 1 in 32 of the model's heads, 1 in 40 of its neurons. `allocation`:
    influence, global or uniform.
    """
    sizes = run.model.sizes
    budgets = default_budgets(sizes, heads or None, neurons or None)
    built = assemble(
        run.model,
        run.open("components", "scores", Scores),
        run.open("influence", "influence", Influence),
        run.open("directions", "differences", Differences),
        **budgets,
        allocation=allocation,
    )
    run.save("circuit", built)
    labels = run.concepts.labels
    members = {site: {e: set(built.components(site, e)) for e in labels} for site in SITES}
    union = {site: len(set().union(*members[site].values())) / sizes.count(site) for site in run.model.sites}
    both = {e: members["heads"][e] | {(layer, -1 - n) for layer, n in members["neurons"][e]} for e in labels}
    return {
        "heads": {e: len(members["heads"][e]) for e in labels},
        "neurons": {e: len(members["neurons"][e]) for e in labels},
        "heads_share": max(len(members["heads"][e]) for e in labels) / sizes.count("heads"),
        "neurons_share": max(len(members["neurons"][e]) for e in labels) / max(1, sizes.count("neurons")),
        "union_share": max(union.values()),
        "union": union,
        "allocation": allocation,
        "heads_by_layer": {e: built.counts("heads", e, sizes.layers) for e in labels},
        "neurons_by_layer": {e: built.counts("neurons", e, sizes.layers) for e in labels},
        "head_ids": {e: [list(pair) for pair in built.components("heads", e)] for e in labels},
        "overlap": [[len(both[a] & both[b]) / len(both[a] | both[b]) for b in labels] for a in labels],
    }
