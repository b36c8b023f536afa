"""An NDIF server in a thread of this process, as far as a client can see one, that fails when told to."""

import json
import threading
from collections.abc import Callable
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import zstandard

from emotrace.models.traced import Model
from tests.remote.loopback import served

KEY = "11111111-2222-3333-4444-555555555555"


class FakeNdif(ThreadingHTTPServer):
    """Runs jobs on a model that is here, in the thread that took them.

    Attributes:
        submitted: ids of the jobs that arrived, in order.
        finished: ids of those that ran to their end.
        answers: told of every request (method, path), gives (status, detail) to answer in place of the server, or None;
            the detail of a redirect is where to.
        drops: told of every job that has arrived; True breaks the connection off before it is answered.
        fails: told of every job, gives the description of its failure, or None.
    """

    daemon_threads = True

    def __init__(self, model: Model) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model
        self.submitted: list[str] = []
        self.finished: list[str] = []
        self.statuses: dict[str, dict[str, Any]] = {}
        self.results: dict[str, bytes] = {}
        self.headers: list[dict[str, str]] = []
        self.answers: Callable[[str, str], tuple[int, Any] | None] = lambda method, path: None
        self.drops: Callable[[str], bool] = lambda job: False
        self.fails: Callable[[str], str | None] = lambda job: None
        self.running = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def take(self, job: str, blob: bytes) -> None:
        self.submitted.append(job)
        self.say(job, "RUNNING", "Your job has started running.")
        threading.Thread(target=self._run, args=[job, blob], daemon=True).start()

    def _run(self, job: str, blob: bytes) -> None:
        failure = self.fails(job)
        if failure is None:
            try:
                with self.running:
                    answer = served(blob, self.model.nn)
            except Exception as error:
                failure = str(error)
        if failure is not None:
            self.say(job, "ERROR", failure)
            return
        self.results[job] = zstandard.ZstdCompressor().compress(answer)
        self.finished.append(job)
        self.say(job, "COMPLETED", "done", f"{self.url}/result/{job}")

    def say(self, job: str, status: str, description: str, data: Any = None) -> None:
        self.statuses[job] = {"id": job, "status": status, "description": description, "data": data}


class _Handler(BaseHTTPRequestHandler):
    server: FakeNdif

    def do_GET(self) -> None:
        if self._refused("GET"):
            return
        kind, _, name = self.path.strip("/").partition("/")
        simple = {"ping": "pong", "connected": {"status": "connected"}, "whoami": {"email": None, "tags": []}}
        if kind in simple:
            self._answer(200, simple[kind])
        elif kind == "env":
            self._answer(200, {"python_version": "3.11.7", "packages": {"nnsight": "0.7.9", "torch": "2.13.0"}})
        elif kind == "status":
            entry = {"repo_id": "org/other", "deployment_level": "HOT", "dtype": "bfloat16"}
            self._answer(200, {"deployments": {"x": entry | {"execution_timeout_seconds": 60.0}}})
        elif kind == "response" and name in self.server.statuses:
            self._answer(200, self.server.statuses[name])
        elif kind == "result" and name in self.server.results:
            self._answer(200, self.server.results[name])
        else:
            self._answer(404, {"detail": "Not found."})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused("POST"):
            return
        self.server.headers.append(dict(self.headers))
        parts = _parts(self.headers["Content-Type"], body)
        job = json.loads(parts.data)["id"]
        self.server.take(job, parts.blob)
        if self.server.drops(job):
            self.close_connection = True
            return
        self._answer(200, {"id": job, "status": "RECEIVED", "description": "received"})

    def _refused(self, method: str) -> bool:
        told = self.server.answers(method, self.path)
        if told is None:
            return False
        status, detail = told
        if 300 <= status < 400:
            self._answer(status, b"", Location=detail)
        else:
            self._answer(status, {"detail": detail} if status >= 400 else detail)
        return True

    def _answer(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""


def _parts(content_type: str, body: bytes) -> SimpleNamespace:
    """The fields of a multipart form."""
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    found = {}
    for part in message.iter_parts():
        found[part.get_param("name", header="content-disposition")] = part.get_payload(decode=True)
    return SimpleNamespace(**found)
