"""Runs of the command line against a rig, and what two of them have in common."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
from safetensors.torch import load_file

from tests.ndif.client import client_environment
from tests.ndif.conftest import MODEL
from tests.ndif.install import REPOSITORY
from tests.ndif.rig import Rig

SMALL = {
    "elicit.scenarios": "12",
    "directions.sample": "6",
    "components.checked_prompts": "1",
    "components.checked_neurons": "2",
    "ablate.scenarios": "6",
    "ablate.controls": "3",
    "enhance.scenarios": "6",
    "enhance.controls": "3",
    "influence.prompts": "12",
    "control.scenarios": "6",
    "control.validation_scenarios": "4",
    "control.draws": "2",
    "control.strengths": "0.5,1",
    "control.residual_alphas": "4",
    "control.residual_depths": "0.39-0.72",
    "control.agreement_scenarios": "2",
    "quality.scenarios": "3",
    "quality.ablations": "mean",
    "quality.shares": "0.02",
    "quality.draws": "2",
    "quality.subsets": "1",
    "quality.heads": "2",
    "quality.singles": "6",
    "quality.judged_scenarios": "0",
    "stability.draws": "3",
    "stability.wording_scenarios": "3",
    "explore.sizes": "1",
    "explore.strengths": "1",
    "explore.scenarios": "2",
}
"""Enough of sev-mini that every stage has work to do."""


def command(protocol: str, out: Path, *options: str, model: str = MODEL) -> list[str]:
    """``emotrace run`` of a protocol on a part of sev-mini; a remote one reads its host from the environment."""
    from emotrace.runner import load_protocol
    from emotrace.runner.protocol import plan

    stages = [spec.name for spec in plan(load_protocol(protocol))]
    own = {option.partition("=")[0].removeprefix("-p") for option in options}
    chosen = [f"-p{k}={v}" for k, v in SMALL.items() if k.split(".")[0] in stages and k not in own]
    remote = ["--remote"] if model == MODEL else []
    run = ["-m", "emotrace", "run", protocol, "--model", model, "--out", str(out), "--no-report"]
    return [sys.executable, *run, *remote, *chosen, *options]


def start(rig: Rig, arguments: list[str], **environment: str) -> "subprocess.Popen[str]":
    """A client that goes on while faults are injected."""
    return subprocess.Popen(
        arguments,
        env=client_environment(rig, **environment),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(client: "subprocess.Popen[str]", timeout_s: float = 240) -> str:
    """What a client printed, once it has ended well."""
    output, _ = client.communicate(timeout=timeout_s)
    assert client.returncode == 0, f"the client ended with {client.returncode}\n{output}"
    return output


def same_results(one: Path, other: Path, tolerance: float = 1e-6) -> None:
    """Assert that two run folders hold the same: texts and choices equal, numbers to ``tolerance``."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    for summary in summaries:
        del summary["seconds"]
    assert list(differences(*summaries, tolerance)) == []
    records = [sorted(path.relative_to(folder) for path in folder.glob("stages/*/*.jsonl")) for folder in (one, other)]
    assert records[0] == records[1] != []
    for path in records[0]:
        lines = [[json.loads(line) for line in (folder / path).read_text().splitlines()] for folder in (one, other)]
        assert list(differences(*lines, tolerance)) == []
    artifacts = [
        sorted(p.relative_to(folder) for p in folder.glob("stages/*/*.safetensors")) for folder in (one, other)
    ]
    assert artifacts[0] == artifacts[1] != []
    for path in artifacts[0]:
        mine, theirs = load_file(one / path), load_file(other / path)
        assert set(mine) == set(theirs)
        for name, values in mine.items():
            apart = float((values.double() - theirs[name].double()).abs().max()) if values.numel() else 0.0
            assert apart <= tolerance * max(1.0, float(values.double().abs().max())), (path, name)
            if path.name == "scores.safetensors":
                orders = [t.flatten(1).sort(descending=True, stable=True).indices for t in (values, theirs[name])]
                assert orders[0].equal(orders[1]), name


def differences(one: Any, other: Any, tolerance: float, path: str = "") -> Iterator[str]:
    """Places where two JSON values differ, numbers by more than ``tolerance`` (relative above 1)."""
    if isinstance(one, dict) and isinstance(other, dict) and set(one) == set(other):
        for key in one:
            yield from differences(one[key], other[key], tolerance, f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, tolerance, f"{path}[{index}]")
    elif isinstance(one, float) and isinstance(other, float):
        if not abs(one - other) <= tolerance * max(1.0, abs(one)):
            yield f"{path}: {one} {other}"
    elif one != other:
        yield f"{path}: {one!r:.80} {other!r:.80}"


def jobs(rig: Rig) -> dict[str, str]:
    """Every job that the server has been given without a socket, and its last status, from its object store."""
    store, found = f"http://127.0.0.1:{rig.ports['s3']}/ndif-results", {}
    token = ""
    while True:
        options = {"list-type": "2", "prefix": "responses/"} | ({"continuation-token": token} if token else {})
        page = ElementTree.fromstring(httpx.get(store, params=options).content)
        space = page.tag.partition("}")[0] + "}"
        for key in page.iter(f"{space}Key"):
            job = Path(str(key.text)).stem
            found[job] = httpx.get(f"{rig.host}/response/{job}").json()["status"]
        token = page.findtext(f"{space}NextContinuationToken") or ""
        if not token:
            return found


def completed(rig: Rig) -> int:
    """Jobs that the server has finished so far."""
    return sum(status == "COMPLETED" for status in jobs(rig).values())


def submitted(out: Path) -> list[dict[str, Any]]:
    """Lines of the job files of a run that is under way, in order."""
    lines: list[dict[str, Any]] = []
    for path in sorted(out.glob("stages/*/batches/jobs.jsonl"), key=lambda p: p.stat().st_mtime):
        text = path.read_text()
        lines += [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return lines
