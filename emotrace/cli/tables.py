"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from emotrace.runner import ProtocolSpec
from emotrace.steps.control import ARMS


def comparison_table(summary: Mapping[str, Any]) -> Table:
    """The paper's comparison from a run's summary: one row per arm of ``summary["control"]``."""
    arms: Mapping[str, Mapping[str, Any]] = summary["control"]["arms"]
    table = Table(
        title="Replies judged as the emotion asked for, held-out scenarios",
        caption="gap: nats per token against prompted replies; parsed: accepted by the grammar",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("arm", no_wrap=True)
    for heading in ("accuracy", "95 %", "gap", "parsed", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in [*(arm for arm in ARMS if arm in arms), *(arm for arm in arms if arm not in ARMS)]:
        arm = arms[name]
        low, high = arm["accuracy_ci"]
        table.add_row(
            name.replace("_", " "),
            f"{arm['accuracy']:.1%}",
            f"{low:.1%}–{high:.1%}",
            f"{arm['fluency_gap_nats']:+.3f}",
            f"{arm['structure_accepted']:.1%}",
            str(arm["n"]),
            style="bold" if name == "circuit" else "",
        )
    return table


def protocol_table(specs: Sequence[ProtocolSpec]) -> Table:
    """What each protocol measures, needs, and takes."""
    table = Table(title="Shipped protocols", show_lines=True)
    for heading in ("name", "what it measures", "needs", "parameters"):
        table.add_column(heading)
    for spec in specs:
        parameters = "\n".join(str(parameter) for parameter in spec.parameters.values())
        table.add_row(*map(Text, (spec.name, spec.help, ", ".join(spec.needs), parameters)))
    return table
