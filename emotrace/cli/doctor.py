"""``emotrace doctor``: is everything that a study needs here and working?"""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from emotrace.cli.findings import Finding, show
from emotrace.errors import EmotraceError
from emotrace.runner.manifest import versions

if TYPE_CHECKING:
    from emotrace.remote.connection import Ndif

TESTED = {"python": "3.11", "torch": "2.13.0", "nnsight": "0.8.1", "transformers": "5.23.0"}
TIMEOUT_SECONDS = 3.0


def examine(console: Console, server: "Ndif | None" = None, model: str | None = None, dtype: str | None = None) -> bool:
    """Look at everything, print it, and say whether it works.

    Args:
        console: where to print.
        server: look at all that a run on this server needs; without it, only whether NDIF answers.
        model: with ``server``, a Hub id to run one small request on.
        dtype: what ``model`` has to be held in.
    """
    return show(_findings(server, model, dtype), console)


def _findings(server: "Ndif | None", model: str | None, dtype: str | None) -> Iterator[Finding]:
    yield from version_findings(versions())
    yield device_finding()
    yield model_finding()
    if server is None:
        yield ndif_finding()
        return
    from emotrace.cli.doctor_remote import remote_findings

    yield from remote_findings(server, model, dtype)


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
    from emotrace.remote.connection import Ndif, api_key

    url = Ndif(host).url
    key = "an API key is set" if api_key() else "no API key is set"
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=timeout) as answer:
            return Finding("NDIF", "ok", f"{url} answers ({answer.status}); {key}")
    except urllib.error.HTTPError as error:
        return Finding("NDIF", "note", f"{url} answers with {error.code}; {key}")
    except (OSError, ValueError) as error:
        return Finding("NDIF", "note", f"{url} cannot be reached ({error}); needed for --remote only; {key}")
