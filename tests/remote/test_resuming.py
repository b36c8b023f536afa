"""Jobs outlive the client: what a server finished is collected, not computed again."""

import json
import time

import pytest
import torch

import emotrace as et
import emotrace.remote.backend as backend
from emotrace.errors import HostedError
from emotrace.remote import jobs
from emotrace.runner.disk import DiskLedger, JobFile
from emotrace.trace.weights import directions_read_back
from tests.remote.clients import hosted, replies
from tests.remote.fake import FakeNdif
from tests.remote.functions import PROMPTS
from tests.tiny import close, tiny_model


def test_a_restarted_client_collects_what_finished(server, tmp_path):
    """The first client is stopped while its jobs run; the second asks for the same jobs by their ids."""

    class Killed(BaseException):
        """Stands for a kill: nothing cleans up after it."""

    def ledger():
        return DiskLedger(tmp_path / "stage", "key")

    small = {"jobs": 1, "request_tokens": 1}

    def asked(model, **options):
        return et.generate_replies(model, PROMPTS, max_new_tokens=5, batch_tokens=15, **options)

    def dies(seconds):
        if len(server.submitted) == 3:
            raise Killed

    backend.pause, before = dies, backend.pause
    try:
        with pytest.raises(Killed):
            asked(hosted(server, **small), ledger=ledger())
    finally:
        backend.pause = before
    while len(server.finished) < 3:  # the server goes on without the client
        time.sleep(0.01)
    kept = [json.loads(line) for line in (tmp_path / "stage" / "batches" / "jobs.jsonl").read_text().splitlines()]
    assert [entry["job"] for entry in kept] == server.submitted
    assert {entry["host"] for entry in kept} == {server.url}
    assert asked(hosted(server, **small), ledger=ledger()) == asked(tiny_model())
    assert len(server.submitted) == len(server.finished) == len(set(server.submitted)) > 3


def test_jobs_of_another_server_or_stage_are_not_asked_for(server, tmp_path):
    replies(hosted(server), ledger=DiskLedger(tmp_path / "stage", "one"))
    replies(hosted(server), ledger=DiskLedger(tmp_path / "stage", "other"))
    other = FakeNdif(tiny_model())
    replies(hosted(other), ledger=DiskLedger(tmp_path / "stage", "third"))
    assert len(server.submitted) == 2
    assert len(other.submitted) == 1
    other.shutdown()


def test_a_probe_does_not_take_another_requests_job(server, tmp_path):
    """What asks for the dtype first may be another batch in a client that is restarted."""
    plan = et.zero(heads=[(0, 0)])

    def asked(model, ledger=None):
        return et.generate_replies(model, PROMPTS, plan, max_new_tokens=5, batch_tokens=15, ledger=ledger)

    expected = asked(tiny_model())
    small = {"jobs": 1, "request_tokens": 1}
    server.fails = lambda job: "Something else." if len(server.submitted) == 4 else None
    with pytest.raises(HostedError, match="Something else"):
        asked(hosted(server, **small), DiskLedger(tmp_path / "stage", "key"))
    assert asked(hosted(server, **small), DiskLedger(tmp_path / "stage", "key")) == expected


def test_a_limit_that_was_raised_helps_a_run_that_is_taken_up_again(server, tmp_path):
    server.fails = lambda job: "Your job exceeded the execution timeout of 2.0s."
    with pytest.raises(et.EmotraceError, match=r"time ran out on one row alone.*ask the server's owners for more time"):
        replies(hosted(server), ledger=DiskLedger(tmp_path / "stage", "key"))
    server.fails = lambda job: None
    assert replies(hosted(server), ledger=DiskLedger(tmp_path / "stage", "key")) == replies(tiny_model())


def test_a_refused_job_is_not_asked_for_later(server, tmp_path):
    server.answers = lambda method, path: (401, "Missing or invalid API key.") if method == "POST" else None
    with pytest.raises(HostedError, match="API key"):
        replies(hosted(server), ledger=DiskLedger(tmp_path / "stage", "key"))
    asked = []
    server.answers = lambda method, path: asked.append(path)
    replies(hosted(server), ledger=DiskLedger(tmp_path / "stage", "key"))
    assert asked.index("/request") < min(n for n, path in enumerate(asked) if path.startswith("/response"))


def test_a_job_file_that_was_cut_short_goes_on(tmp_path):
    journal = JobFile(tmp_path / "jobs.jsonl", "stage")
    journal.keep(("a", 0, "", "f.py:1", 0), "http://x", "one")
    with journal.path.open("ab") as file:
        file.write(b'{"stage": "sta')
    JobFile(journal.path, "stage").keep(("a", 1, "", "f.py:1", 0), "http://x", "two")
    found = JobFile(journal.path, "stage")
    assert found.find(("a", 0, "", "f.py:1", 0), "http://x") == "one"
    assert found.find(("a", 1, "", "f.py:1", 0), "http://x") == "two"
    assert found.find(("a", 1, "", "f.py:1", 0), "http://other") is None
    assert JobFile(journal.path, "other").find(("a", 0, "", "f.py:1", 0), "http://x") is None


def test_a_stage_asks_once_for_what_it_asks_outside_batches(server, tmp_path):
    """As ``run_protocol`` has it: requests outside a ledger's batches belong to the stage."""
    vectors = torch.randn(2, 3, 32, dtype=torch.float64)
    for _ in range(2):
        with jobs.batch(JobFile(tmp_path / "jobs.jsonl", "stage"), "", 0):
            model = hosted(server)
            first, second = (
                directions_read_back(model, "heads", vectors),
                directions_read_back(model, "heads", -vectors),
            )
        assert close(first, -second, 1e-12)
    assert len(server.submitted) == 2


def test_jobs_that_wait_in_a_queue_are_not_submitted_again(server, tmp_path):
    """Neither while others run, nor by a client that was restarted, nor when the server is asked too often."""
    first, told = {}, []

    def answers(method, path):
        told.append(path)
        job = path.rpartition("/")[2]
        if len(told) == 4:
            return 429, "slow down"
        if path.startswith("/response") and job in server.statuses:
            first.setdefault(job, time.monotonic())
            if time.monotonic() - first[job] < 0.6:  # three times the grace
                return 200, {"id": job, "status": "QUEUED", "description": "Added to Queue at position 1."}
        return None

    server.answers = answers
    assert replies(hosted(server), ledger=DiskLedger(tmp_path / "stage", "key")) == replies(tiny_model())
    assert len(server.submitted) == 1
