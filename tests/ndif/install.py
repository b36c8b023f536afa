"""Install the published NDIF server into an environment of its own: `python -m tests.ndif.install [--home DIR]`."""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
# ndif asks for Python 3.12, and runs on 3.11.
SERVER = ["--no-deps", "--ignore-requires-python", "ndif==0.1.2"]


class InstallError(Exception):
    """A command of the installation failed."""


def default_home() -> Path:
    """Folder of the environment and of the rigs' state."""
    return Path(os.environ.get("EMOTRACE_NDIF_HOME") or REPOSITORY / ".ndif").absolute()


def install(home: Path | None = None) -> Path:
    """The home, with a complete environment in `venv`; nothing is done if it is there already."""
    home = (home or default_home()).absolute()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if shutil.which("redis-server") is None:
            _install_redis()
        stamp = home / "venv" / ".complete"
        wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + " ".join(SERVER).encode()).hexdigest()
        if not stamp.exists() or stamp.read_text() != wanted:
            _install_packages(home / "venv")
            stamp.write_text(wanted)
    return home


def _install_packages(venv: Path) -> None:
    shutil.rmtree(venv, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(venv)])
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = next(line for line in REQUIREMENTS.read_text().splitlines() if line.startswith("torch=="))
    # torch first and alone, so that pip takes the build that fits the machine.
    for what in ([torch], ["--no-deps", "-r", str(REQUIREMENTS)], SERVER):
        _run([*pip, *what])


def _install_redis() -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise InstallError("the NDIF rig needs redis-server: install it, or run this as root on Debian or Ubuntu")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "update", "--quiet"], quiet)
    _run(["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "redis-server"], quiet)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise InstallError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:].strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="where to (default: $EMOTRACE_NDIF_HOME, else .ndif here)")
    try:
        print(install(parser.parse_args().home))
    except InstallError as error:
        sys.exit(f"python -m tests.ndif.install: {error}")


if __name__ == "__main__":
    main()
