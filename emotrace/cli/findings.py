"""What ``emotrace doctor`` finds, and how it is shown."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: its name.
        state: ``"broken"`` means that a study cannot run here; ``"note"`` is for people to judge.
        detail: what was found.
    """

    what: str
    state: Literal["ok", "note", "broken"]
    detail: str


def show(findings: Iterable[Finding], console: Console) -> bool:
    """Print findings, and say whether nothing is broken."""
    table = Table(show_header=False, box=None)
    fine = True
    with console.status("looking"):
        for finding in findings:
            table.add_row(Text(finding.what), Text(finding.state, STYLES[finding.state]), Text(finding.detail))
            fine = fine and finding.state != "broken"
    console.print(table)
    return fine
