"""A captured block as a job of an NDIF server: submitted once, waited for, collected, even by another process."""

import io
import json
import pickle
import sys
import time
from math import inf
from pathlib import Path
from typing import Any
from uuid import uuid4

import nnsight
import tenacity
import torch
import zstandard
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.backend import Backend
from nnsight.tracing.tracer import mark
from nnsight.tracing.util import push

from emotrace.errors import HostedError, Refused
from emotrace.ledger import pause
from emotrace.remote import jobs
from emotrace.remote.connection import Connection
from emotrace.remote.wire import pack
from emotrace.remote.words import JobLost, job_error

FIRST_LOOK, LOOK_LESS, RAREST_LOOK = 0.02, 1.5, 1.0
"""Seconds to the first look at a job's status, the factor from one to the next, and the most there may be."""
TRIES = 5


class _Failed(Exception):
    """The server reports that a job failed."""

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self.description = description


class HostedBackend(Backend):
    """Runs one block on the server. Jobs are submitted without a socket, so that they outlive the client.

    Args:
        model: the :class:`emotrace.Model` that the block is traced on.
        connection: the way to its server.
    """

    def __init__(self, model: Any, connection: Connection) -> None:
        self.model, self.connection = model, connection

    def __call__(self, tracer: Any) -> None:
        """Run the block and write what it saved into the frame that it stands in.

        Raises:
            HostedError: the server cannot be used, or the block failed there (names the line).
            TimeLimitExceeded, MemoryError: a smaller request may fit.
        """
        start = time.monotonic()
        try:
            saved = self._result(tracer)
        finally:
            self.connection.count(seconds_waited=time.monotonic() - start)
        for value in saved.values():
            mark(value)
        push(tracer.info.frame, saved)

    def _result(self, tracer: Any) -> dict[str, Any]:
        slot, host = jobs.current(), self.connection.host
        file, line = _place(tracer)
        key = slot.next_key(f"{Path(file).name}:{line}") if slot else None
        known = slot.journal.find(key, host) if slot and key else None
        blob: bytes | None = None

        def keep(job: str | None) -> None:
            if slot and key:
                slot.journal.keep(key, host, job)

        def once() -> dict[str, Any]:
            nonlocal known, blob
            job, resumed, known = known, known is not None, None
            if job is None:
                blob = pack(tracer, self.model) if blob is None else blob
                job = uuid4().hex
                keep(job)  # before it is sent: a client killed in between would not know what runs for it
                try:
                    given = self._submitted(job, blob)
                except Refused:
                    keep(None)
                    raise
                if given != job:  # a server that chooses ids itself
                    job = given
                    keep(job)
            try:
                return self._collected(job, resumed)
            except _Failed as failed:
                keep(None)
                raise self._explained(failed.description, tracer) from None
            except JobLost:
                keep(None)
                raise

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(JobLost),
            wait=tenacity.wait_exponential_jitter(multiplier=2.0, max=60.0),
            stop=tenacity.stop_after_attempt(TRIES),
            sleep=pause,
            reraise=True,
        )
        try:
            found: dict[str, Any] = retrying(once)
        except JobLost as error:
            raise HostedError(f"{host} failed the same request {TRIES} times ({error}); try again later") from None
        return found

    def _submitted(self, job: str, blob: bytes) -> str:
        nn = self.model.nn
        request = RequestModel(model_key=nn.to_model_key(), compress=True, env=nn._remoteable_get_env())
        data = json.dumps({**request.model_dump(), "id": job})
        headers = {
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": nnsight.__version__,
            "python-version": sys.version,
        }
        files = {"blob": ("request", blob, "application/octet-stream")}
        body: dict[str, Any] = {"data": {"data": data}, "files": files, "headers": headers}
        answer = self.connection.post("/request", trace=f"/response/{job}", **body)
        self.connection.count(requests=1, bytes_sent=len(blob) + len(data))
        return self._status(answer.text).id

    def _collected(self, job: str, resumed: bool) -> dict[str, Any]:
        """Wait for a job and fetch what it saved; ``JobLost`` if the server has lost it, ``_Failed`` if it failed."""
        connection = self.connection
        said, since, restarts = "", time.monotonic(), connection.restarts
        look = FIRST_LOOK
        while True:
            pause(look)
            look = min(look * LOOK_LESS, RAREST_LOOK)
            answer = connection.get(f"/response/{job}", missing_ok=True)
            connection.count(status_requests=1, status_bytes=len(answer.content))
            if answer.status_code == 200:
                status = self._status(answer.text)
                if status.status == Status.COMPLETED:
                    return self._downloaded(str(status.data))
                if status.status == Status.ERROR:
                    raise _Failed(status.description)
                line = f"{status.status.value}: {status.description}"
                if line != said:
                    said, since = line, time.monotonic()
                    connection.moved = since
                    connection.watch(line, False)
            limit = self._standstill(answer.status_code == 200, said, resumed, restarts != connection.restarts)
            if time.monotonic() - max(since, connection.moved) > limit:
                raise JobLost(f"job {job} has not moved for {limit:g} s")

    def _standstill(self, known: bool, said: str, resumed: bool, restarted: bool) -> float:
        """Seconds without any job moving after which one is taken for lost.

        Jobs may wait in a queue for long, and say nothing meanwhile. But a server that was restarted has forgotten its
        queues, though not the jobs that run; and of one that ran while this client was away, that is not known.
        """
        settings = self.connection.settings
        if not known or (restarted and not said.startswith(Status.RUNNING.value)):
            return settings.grace
        return settings.patience if restarted or resumed else inf

    def _downloaded(self, url: str) -> dict[str, Any]:
        answer = self.connection.download(url)
        if answer.status_code != 200:
            raise JobLost("its result has expired")
        self.connection.count(bytes_received=len(answer.content))
        content = zstandard.ZstdDecompressor().decompress(answer.content)
        try:
            saved: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            kind = str(error).partition("GLOBAL ")[2].split(" ")[0] or "an object"
            raise HostedError(
                f"the block saved {kind}, which is not read from a server; save tensors, numbers, text, lists and dicts"
            ) from None
        return saved

    def _explained(self, text: str, tracer: Any) -> Exception:
        hosted = sorted(deployments(self.connection)) if "Could not deploy" in text else []
        return job_error(
            text, model=self.model.identity, host=self.connection.host, hosted=hosted, block=_place(tracer)
        )

    def _status(self, text: str) -> ResponseModel:
        try:
            return ResponseModel.model_validate_json(text)
        except ValueError:
            raise HostedError(f"{self.connection.host} answers what no NDIF server does ({text[:100]!r})") from None


def _place(tracer: Any) -> tuple[str, int]:
    """File and line of a block."""
    return tracer.info.frame.f_code.co_filename, tracer.node.lineno


def deployments(connection: Connection) -> dict[str, dict[str, Any]]:
    """What a server says of each model that it has deployed, by Hub id; of several copies, the last."""
    listed = connection.get("/status").json().get("deployments", {})
    deployed = {name: entry for name, entry in listed.items() if entry.get("deployment_level") != "COLD"}
    return {str(entry.get("repo_id", name)): entry for name, entry in deployed.items()}
