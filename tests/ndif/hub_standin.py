"""A Hugging Face Hub small enough to serve a few local folders to the rig and its clients.

`python hub_standin.py PORT ORG/NAME=FOLDER ... [--gated ORG/NAME ...]`, with the standard library only, on loopback.
"""

import argparse
import hashlib
import json
import math
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Headers = dict[str, str]
Answer = tuple[int, Headers, bytes]
JSON = {"Content-Type": "application/json"}


class Repository:
    """A folder as the Hub would describe it; the commit hashes the files, so that a cache of older ones is not used."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        self.tags = {name: hashlib.sha1(path.read_bytes()).hexdigest() for name, path in self.files.items()}
        self.commit = hashlib.sha1(json.dumps(self.tags).encode()).hexdigest()

    def parameters(self) -> dict[str, int]:
        """Number of parameters by dtype, from the headers of the safetensors files."""
        counts: dict[str, int] = {}
        for path in (path for name, path in self.files.items() if name.endswith(".safetensors")):
            with path.open("rb") as file:
                tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            for tensor in (tensor for name, tensor in tensors.items() if name != "__metadata__"):
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
        return counts

    def info(self) -> dict[str, Any]:
        counts = self.parameters()
        return {
            "id": self.name,
            "modelId": self.name,
            "sha": self.commit,
            "private": False,
            "gated": False,
            "pipeline_tag": "text-generation",
            "library_name": "transformers",
            "tags": ["transformers", "safetensors", "text-generation"],
            "siblings": [{"rfilename": name} for name in self.files],
            "safetensors": {"parameters": counts, "total": sum(counts.values())},
        }

    def answer(self, route: list[str]) -> Answer:
        """What follows the repository's name: nothing, `revision/R`, `tree/R`, or `resolve/R/FILE`."""
        kind, revision, *rest = [*route, "", ""] if route else ["", ""]
        if revision not in ("", "main", self.commit):
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if kind in ("", "revision"):
            return 200, JSON, json.dumps(self.info()).encode()
        if kind == "tree":
            return 200, JSON, b"[]"
        name = "/".join(part for part in rest if part)
        if name not in self.files:
            return refusal(404, "EntryNotFound", "Entry not found")
        headers = {"ETag": f'"{self.tags[name]}"', "X-Repo-Commit": self.commit}
        return 200, headers | {"Content-Type": "application/octet-stream"}, self.files[name].read_bytes()


def refusal(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    return status, JSON | headers, json.dumps({"error": message}).encode()


def gated(name: str, route: list[str], known: bool) -> Answer:
    """Anyone may look at a gated repository; its files take an account that has been let in."""
    if route[:1] != ["resolve"]:
        files = [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}]
        info = {"id": name, "modelId": name, "sha": "1" * 40, "private": False, "gated": "manual", "siblings": files}
        return 200, JSON, json.dumps(info | {"pipeline_tag": "text-generation", "tags": ["transformers"]}).encode()
    asked = f"Access to model {name} is restricted"
    if not known:
        return refusal(401, "GatedRepo", f"{asked}. You must have access to it and be authenticated to access it.")
    return refusal(403, "GatedRepo", f"{asked} and you are not in the authorized list.")


class Hub(ThreadingHTTPServer):
    """Serves `repositories`, refuses the files of `gated` ones, and knows no others."""

    daemon_threads = True

    def __init__(self, port: int, repositories: list[Repository], gated: list[str]) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.repositories = {repository.name.casefold(): repository for repository in repositories}
        self.gated = {name.casefold(): name for name in gated}

    def answer(self, path: str, known: bool) -> Answer:
        parts = path.partition("?")[0].strip("/").removeprefix("api/models/").split("/")
        name, route = "/".join(parts[:2]), parts[2:]
        if name.casefold() in self.gated:
            return gated(self.gated[name.casefold()], route, known)
        if name.casefold() in self.repositories:
            return self.repositories[name.casefold()].answer(route)
        return refusal(404, "RepoNotFound", "Repository not found")


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD; prints a line for each request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.respond()

    def do_HEAD(self) -> None:
        self.respond()

    def respond(self) -> None:
        status, headers, body = self.server.answer(self.path, known="Authorization" in self.headers)
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        print(format % arguments, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("models", nargs="*", metavar="ORG/NAME=FOLDER")
    parser.add_argument("--gated", nargs="*", default=[], metavar="ORG/NAME")
    arguments = parser.parse_args()
    named = (model.split("=", 1) for model in arguments.models)
    Hub(arguments.port, [Repository(name, Path(folder)) for name, folder in named], arguments.gated).serve_forever()


if __name__ == "__main__":
    main()
