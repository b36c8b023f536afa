"""Every experiment of the paper."""

from typing import Any

from emotrace.runner import Run, protocol


@protocol(
    needs=[
        "elicit",
        "directions",
        "components",
        "ablate",
        "enhance",
        "influence",
        "circuit",
        "control",
        "quality",
        "stability",
        "explore",
    ]
)
def paper(run: Run) -> dict[str, Any]:
    """Run all of the paper's experiments, and what tells how far to trust them: quality, stability, explore."""
    return {"stages": list(run.reachable)}
