"""Measurements in a process of their own, whose memory nothing earlier has filled."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.timing import peak_during, resident, timed

RESULT = "result: "


def fresh(target: str, **arguments: Any) -> dict[str, Any]:
    """What ``module:function`` returns when a fresh process calls it.

    Raises:
        RuntimeError: it failed; the end of its messages is in the error.
    """
    command = [sys.executable, "-m", "benchmarks.fresh", target, json.dumps(arguments)]
    settings = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not lines:
        raise RuntimeError(f"{target} with {arguments} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(RESULT))
    return found


def costs(warm_up: Callable[[], Any], work: Callable[[], Any]) -> dict[str, float]:
    """Seconds of some work, its peak above what was resident before anything ran, and above that after a warm-up."""
    before = resident()
    warm_up()
    warm = resident()
    took: list[float] = []
    peak = peak_during(lambda: took.append(timed(work)))
    return {"seconds": took[0], "peak": peak - before, "growth": peak - warm}


if __name__ == "__main__":
    module, _, function = sys.argv[1].partition(":")
    answer = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    print(RESULT + json.dumps(answer), flush=True)
