"""The benchmark's end of the pipe to a peer library: `with Peer("pyvene") as peer: peer.call("capture")`."""

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from benchmarks.peers.environments import HOME, environment

FOLDER = Path(__file__).resolve().parent
TAIL = 4000
"""Characters of a dead peer's stderr that its error shows."""


class Peer:
    """A peer library in a process of its own, in its own environment.

    Requests and replies are JSON lines. Tensors travel as safetensors files, in a folder that lives as long as the
    process: read them before leaving the `with` block.
    """

    def __init__(self, name: str, home: Path = HOME, python: Path | None = None) -> None:
        """`python` is the interpreter to use; without it, that of the environment in `home`, made if missing."""
        self.name = name
        self.home = home
        self.python = python
        self._process: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._noise: IO[str] | None = None
        self._replies: IO[str] | None = None

    def __enter__(self) -> Self:
        python = self.python or environment(self.name, self.home)
        self._folder = tempfile.TemporaryDirectory(prefix=f"peer-{self.name}-")
        # A file, not a pipe: nobody has to drain it while a call waits. Libraries print to stdout as they are imported,
        # so replies come over a pipe of their own.
        self._noise = (Path(self._folder.name) / "stderr").open("w+")
        replies, wire = os.pipe()
        self._replies = os.fdopen(replies, encoding="utf-8")
        self._process = subprocess.Popen(
            [str(python), "-u", str(FOLDER / f"serve_{self.name}.py"), self._folder.name, str(wire)],
            stdin=subprocess.PIPE,
            stdout=self._noise,
            stderr=self._noise,
            pass_fds=[wire],
            text=True,
            # Models are local folders; without this some peers ask the hub first and wait for it. PYTHONPATH would
            # let packages of the caller's environment in.
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"},
        )
        # The server's copy has to be the only one, or its death would not end the replies.
        os.close(wire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        # An end of file is the server's signal to leave.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for resource in (self._replies, self._noise):
            assert resource is not None
            resource.close()
        assert self._folder is not None
        self._folder.cleanup()

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """One operation's reply: `seconds` and `file`, or `unsupported` and why.

        Raises:
            RuntimeError: the operation failed there (with the peer's traceback), or the process is gone (with the end
                of its stderr).
        """
        if self._process is None or self._process.stdin is None or self._replies is None:
            raise RuntimeError(f"{self.name}: call it inside its `with` block")
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items()}
        try:
            self._process.stdin.write(json.dumps({"op": op, "arguments": plain}) + "\n")
            self._process.stdin.flush()
            line = self._replies.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(
                f"{self.name} died during {op!r} ({self._ending()}); the end of its stderr:\n{self._tail()}"
            )
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"{self.name} failed during {op!r}: {reply['error']}\n{reply['traceback']}")
        return reply

    def _ending(self) -> str:
        assert self._process is not None
        try:
            return f"exit code {self._process.wait(timeout=10)}"
        except subprocess.TimeoutExpired:
            return "it closed the pipe but still runs"

    def _tail(self) -> str:
        assert self._folder is not None
        return (Path(self._folder.name) / "stderr").read_text(errors="replace")[-TAIL:]
