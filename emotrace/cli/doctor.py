"""``emotrace doctor``: is everything that a study needs here and working?"""

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emotrace.errors import EmotraceError
from emotrace.runner.manifest import versions

TESTED = {"python": "3.11", "torch": "2.13.0", "nnsight": "0.8.1", "transformers": "5.23.0"}
TIMEOUT_SECONDS = 3.0
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


def examine(console: Console) -> bool:
    """Look at everything, print it, and say whether all that is local works."""
    findings = [*version_findings(versions()), device_finding(), model_finding(), ndif_finding()]
    table = Table(show_header=False, box=None)
    for finding in findings:
        table.add_row(Text(finding.what), Text(finding.state, STYLES[finding.state]), Text(finding.detail))
    console.print(table)
    return all(finding.state != "broken" for finding in findings)


def version_findings(installed: dict[str, str]) -> list[Finding]:
    """Installed against tested versions."""
    findings = []
    for name, tested in TESTED.items():
        same = installed[name].split("+")[0] == tested or (
            name == "python" and installed[name].startswith(f"{tested}.")
        )
        detail = installed[name] if same else f"{installed[name]} (tested with {tested})"
        findings.append(Finding(name, "ok" if same else "note", detail))
    return findings


def device_finding() -> Finding:
    """Where models can run, by actually computing there."""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    for index in range(len(names)):
        try:
            torch.ones(8, device=f"cuda:{index}").sum().item()
        except RuntimeError as error:
            return Finding("devices", "broken", f"{names[index]} is visible but does not compute: {error}")
    return Finding("devices", "ok", ", ".join(names) or f"CPU, {torch.get_num_threads()} threads; no GPU")


def model_finding(reply: Callable[[], str] | None = None) -> Finding:
    """Whether the bundled model loads and replies."""
    try:
        text = (reply or bundled_reply)()
    except (EmotraceError, RuntimeError, OSError, ValueError) as error:
        return Finding("bundled model", "broken", str(error))
    return Finding("bundled model", "ok" if text.strip() else "broken", text.strip() or "it replies with nothing")


def bundled_reply() -> str:
    """A short reply of the bundled model."""
    import emotrace as et

    return et.generate(et.load("bundled"), "I left my bag on the train.\nNobody has handed it in.", max_new_tokens=16)


def ndif_finding(host: str | None = None, timeout: float = TIMEOUT_SECONDS) -> Finding:
    """Whether NDIF answers; needed for ``--remote`` only."""
    from nnsight import CONFIG

    url = (host or CONFIG.API.HOST).rstrip("/")
    key = "an API key is set" if os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY else "no API key is set"
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=timeout) as answer:
            return Finding("NDIF", "ok", f"{url} answers ({answer.status}); {key}")
    except urllib.error.HTTPError as error:
        return Finding("NDIF", "note", f"{url} answers with {error.code}; {key}")
    except (OSError, ValueError) as error:
        return Finding("NDIF", "note", f"{url} cannot be reached ({error}); needed for --remote only; {key}")
