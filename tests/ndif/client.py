"""Clients of a rig, each a process of its own: huggingface_hub and nnsight read their settings when imported."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tests.ndif.install import REPOSITORY
from tests.ndif.rig import Rig


def client_environment(rig: Rig, **more: str) -> dict[str, str]:
    """This process's environment, with what a client of the rig needs."""
    own = {name: value for name, value in os.environ.items() if name not in ("NDIF_API_KEY", "HF_TOKEN")}
    return own | {"OMP_NUM_THREADS": "1"} | rig.client_env() | more


def run_client(
    rig: Rig,
    script: str | Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
    timeout_s: float = 180,
) -> subprocess.CompletedProcess[str]:
    """Run Python source, or the interpreter with these arguments, in the repository's folder.

    With `check`, an AssertionError holds what a client that failed has printed.
    """
    arguments = ["-c", script] if isinstance(script, str) else list(script)
    done = subprocess.run(
        [sys.executable, *arguments],
        env=client_environment(rig, **(environment or {})),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if check:
        assert done.returncode == 0, f"the client ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
