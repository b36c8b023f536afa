"""``emotrace doctor --remote``: the way to a model on NDIF, link by link, up to one small request."""

import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from typing import Any

import emotrace as et
from emotrace.cli.findings import Finding
from emotrace.errors import EmotraceError, HostedError
from emotrace.remote.backend import deployments
from emotrace.remote.connection import Connection, Ndif, api_key
from emotrace.remote.words import LOGIN

CRITICAL = ("nnsight", "transformers", "torch")
"""Packages in whose other versions a block may fail on a server, or mean something else."""
PATIENCE = 10.0


def remote_findings(settings: Ndif, model: str | None = None, dtype: str | None = None) -> Iterator[Finding]:
    """What a run on a server needs, in the order in which it needs it; ends at the first link that is broken.

    Args:
        settings: the server.
        model: a Hub id to run one small request on.
        dtype: what ``model`` has to be held in; anything by default.
    """
    connection = Connection(replace(settings, patience=min(settings.patience, PATIENCE)))
    connection.watch = lambda text, trouble: None  # a finding says it
    try:
        connection.introduce()
        connection.get("/connected")
    except HostedError as error:
        yield Finding("NDIF", "broken", str(error))
        return
    yield Finding("NDIF", "ok", f"{settings.url} answers, and its backend is connected")
    try:
        yield key_finding(connection.get("/whoami").json())
        yield from server_versions(connection.get("/env").json())
        held = deployments(connection)
    except (HostedError, ValueError) as error:
        yield Finding("NDIF", "broken", str(error))
        return
    yield hosted_finding(held)
    if model is not None:
        yield request_finding(model, dtype, settings)


def key_finding(identity: dict[str, Any]) -> Finding:
    """Whether a key is set and known to the server; servers without accounts know none."""
    if not api_key():
        return Finding("API key", "note", f"none is set; a server with accounts needs one: get it at {LOGIN}")
    if identity.get("email") is None:
        return Finding(
            "API key", "note", f"set, but not known there (or the server has no accounts); a new one: {LOGIN}"
        )
    return Finding("API key", "ok", "set, and known to the server")


def server_versions(environment: dict[str, Any]) -> Iterator[Finding]:
    """The server's versions of what a block depends on, against those here."""
    packages = environment.get("packages", {})
    for name in CRITICAL:
        here, there = metadata.version(name).split("+")[0], str(packages.get(name, "unknown")).split("+")[0]
        if here == there:
            yield Finding(f"{name} there", "ok", there)
            continue
        # blocks are sent in a form that belongs to nnsight's minor version
        other = name == "nnsight" and here.split(".")[:2] != there.split(".")[:2]
        advice = f"{there}, here {here}; to have the same: pip install {name}=={there}"
        yield Finding(f"{name} there", "broken" if other else "note", advice)
    here, there = (v.split(" ")[0] for v in (platform.python_version(), str(environment.get("python_version", "?"))))
    same = here.split(".")[:2] == there.split(".")[:2]
    yield Finding("python there", "ok" if same else "note", there if same else f"{there}, here {here}")


def hosted_finding(held: dict[str, dict[str, Any]]) -> Finding:
    """What the server hosts, in which dtype, and how long a request may run."""
    if not held:
        return Finding("models hosted", "note", "none at present; a request may deploy one, if the server allows it")
    listed = []
    for name, entry in sorted(held.items()):
        limit = entry.get("execution_timeout_seconds")
        facts = [entry.get("dtype"), entry.get("application_state"), f"at most {limit:g} s" if limit else None]
        listed.append(f"{name} ({', '.join(str(fact) for fact in facts if fact)})")
    return Finding("models hosted", "ok", "\n".join(listed))


def request_finding(model: str, dtype: str | None, settings: Ndif) -> Finding:
    """One small request: what the model is there."""
    start = time.monotonic()
    try:
        held = et.load(model, dtype=dtype, remote=settings).probed
    except (EmotraceError, MemoryError) as error:
        return Finding(model, "broken", str(error))
    found = str(held.dtype).removeprefix("torch.")
    return Finding(model, "ok", f"{found}; a first request took {time.monotonic() - start:.1f} s, deployment included")
