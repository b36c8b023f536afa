"""Every experiment of the paper."""

from typing import Any

from emotrace.runner import Run, protocol


@protocol(needs=["elicit", "directions", "components", "ablate", "enhance", "influence", "circuit", "control"])
def paper(run: Run) -> dict[str, Any]:
    """Run all of the paper's experiments, from elicitation to the comparison on held-out scenarios."""
    return {"stages": list(run.reachable)}
