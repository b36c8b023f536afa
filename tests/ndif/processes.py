"""Which processes are a rig's, and ending them: also when the process that started the rig is killed.

`python processes.py STATE RAY` waits until its standard input closes, then ends the rig of these folders.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MARK = "EMOTRACE_NDIF_STATE"
GRACE_S = 20.0


def members(state: Path, ray: Path) -> dict[int, str]:
    """Process id and command line of every process of the rig.

    A process is the rig's if its environment says so, if it writes to a file in the rig's log folder or Ray folder
    (some overwrite their environment with a title), or if it descends from such a process.
    """
    mark = f"{MARK}={state}".encode()
    folders = tuple(f"{folder}/" for folder in (state / "logs", ray))
    found, parents = set(), {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if mark in (entry / "environ").read_bytes().split(b"\0") or _writes(entry, folders):
                found.add(int(entry.name))
        except OSError:  # it has ended, or is another user's
            continue
    for pid in parents:
        line = list(_ancestry(pid, parents))
        if found.intersection(line):
            found.update(line[: 1 + max(i for i, p in enumerate(line) if p in found)])
    # Whoever asks is none of them, whatever it has open.
    found.difference_update(_ancestry(os.getpid(), parents))
    return {pid: command for pid in sorted(found) if (command := _command(pid))}


def end(state: Path, ray: Path) -> None:
    """Kill the rig's processes and remove Ray's folder. Nothing in either needs an orderly end."""
    deadline = time.monotonic() + GRACE_S
    clear = 0
    while clear < 2:  # one that was being started during the first look is there at the second
        alive = members(state, ray)
        clear = 0 if alive else clear + 1
        for pid in alive:
            kill(pid)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of the rig that do not end: {alive}")
        time.sleep(0.1)
    shutil.rmtree(ray, ignore_errors=True)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    """Empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _ancestry(pid: int, parents: dict[int, int]) -> Iterator[int]:
    """The process and its ancestors, below init."""
    while pid > 1:
        yield pid
        pid = parents.get(pid, 0)


def _writes(entry: Path, folders: tuple[str, ...]) -> bool:
    for descriptor in (entry / "fd").iterdir():
        try:
            if os.readlink(descriptor).startswith(folders):
                flags = (entry / "fdinfo" / descriptor.name).read_text().partition("flags:")[2].split()[0]
                if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
        except OSError:
            continue
    return False


if __name__ == "__main__":
    sys.stdin.read()
    end(Path(sys.argv[1]), Path(sys.argv[2]))
