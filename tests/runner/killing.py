"""Kill a run at random moments, resume it, and compare it with an uninterrupted one."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMES = {"seconds", "computed"}


def command(protocol: str | Path, out: Path, arguments: Sequence[str] = ()) -> list[str]:
    """The command line of a run without its report."""
    return [sys.executable, "-m", "emotrace", "run", str(protocol), "--out", str(out), "--no-report", *arguments]


def run_to_end(protocol: str | Path, out: Path, arguments: Sequence[str] = ()) -> float:
    """Run without interruption; seconds it took."""
    start = time.monotonic()
    done = subprocess.run(command(protocol, out, arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - start


def computed(out: Path) -> list[tuple[str, str, int]]:
    """(stage, name, batch) of every batch computed, in order."""
    found = []
    for log in sorted(out.glob("stages/*/computed.log")):
        text = log.read_text()
        for line in text[: text.rfind("\n") + 1].splitlines():  # a line may be half written at this moment
            entry = json.loads(line)
            found.append((log.parent.name, entry["name"], entry["batch"]))
    return found


def kill_while_running(protocol: str | Path, out: Path, arguments: Sequence[str], goals: Sequence[int]) -> list[int]:
    """SIGKILL the run whenever as many batches as a goal says have been computed, then let it end.

    Returns how many batches had been computed at each kill, so that a test can show that the kills fell into the work.
    """
    counts = []
    for goal in goals:
        process = subprocess.Popen(
            command(protocol, out, arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(computed(out)) < goal:
            time.sleep(0.002)
        assert process.poll() is None, "the run ended before it could be killed; give it more or slower batches"
        process.kill()
        process.wait()
        counts.append(len(computed(out)))
    run_to_end(protocol, out, arguments)
    return counts


def results(out: Path) -> dict[str, Any]:
    """Everything a run wrote but times: parsed summary, and the bytes of every stage's results."""
    files = {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.glob("stages/*/*"))
        if path.suffix in (".safetensors", ".jsonl") or path.name == "result.json"
    }
    summary = json.loads((out / "summary.json").read_text())
    del summary["seconds"]
    keys = {name: stage["key"] for name, stage in json.loads((out / "manifest.json").read_text())["stages"].items()}
    return {"files": files, "summary": summary, "keys": keys}


def assert_survives_kills(
    protocol: str | Path, folder: Path, arguments: Sequence[str] = (), *, moments: int = 3, seed: int = 0
) -> None:
    """A killed and resumed run equals an uninterrupted one bit for bit, and no finished batch is computed twice."""
    run_to_end(protocol, folder / "whole", arguments)
    whole = computed(folder / "whole")
    goals = sorted(random.Random(seed).sample(range(1, len(whole) - 1), moments))
    counts = kill_while_running(protocol, folder / "killed", arguments, goals)
    killed = computed(folder / "killed")
    assert counts[-1] < len(whole), "the last kill came after all the work"
    assert sorted(set(killed)) == sorted(killed), "a finished batch was computed twice"
    missing = set(whole) - set(killed)  # a kill between a batch's data and its log line
    assert len(missing) <= moments
    assert set(killed) <= set(whole)
    assert results(folder / "killed") == results(folder / "whole")
