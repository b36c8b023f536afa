"""Virtual environments of the peer libraries: made once, made again when their requirements differ."""

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HOME = REPOSITORY / ".bench"

TORCH = "torch==2.13.0"
PEERS: dict[str, tuple[str, ...]] = {
    "transformer_lens": ("transformer-lens==4.3.0", "transformers==5.23.0", "numpy==2.4.6", TORCH),
    "pyvene": ("pyvene==0.1.8", "transformers==5.23.0", "numpy==2.4.6", TORCH),
    "repeng": ("repeng==0.4.0", "transformers==5.23.0", "numpy==1.26.4", TORCH),
    "steering_vectors": ("steering-vectors==0.12.2", "transformers==4.57.6", "numpy==2.4.6", TORCH),
}
"""Name of a peer -> its requirements. torch, transformers and numpy are those of emotrace where the peer allows it:
repeng forbids numpy 2, steering-vectors forbids transformers 5."""


def environment(name: str, home: Path = HOME) -> Path:
    """The interpreter of a peer's environment in `home/name`, which is made first where it is missing or differs.

    The marker is written last, so an installation that was cut off is made again. A lock keeps two callers apart.
    """
    requirements = PEERS[name]
    folder = home / name
    python, marker = folder / "bin" / "python", folder / "requirements.json"
    wanted = {"requirements": list(requirements), "python": sys.version.split()[0]}
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.exists() and python.exists() and json.loads(marker.read_text()) == wanted:
            return python
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        # torch first and alone, so that pip takes the build that fits the machine; named again with the rest, so that
        # no other requirement moves it.
        _install(python, TORCH)
        _install(python, *requirements)
        marker.write_text(json.dumps(wanted))
    return python


def _install(python: Path, *requirements: str) -> None:
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
