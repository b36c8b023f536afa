"""Jobs of a server that fails in every way a server can: tried again where that helps, told in our words where not."""

import json
import threading
import time

import httpx
import pytest
import torch

import emotrace as et
import emotrace.remote.backend as backend
import emotrace.remote.connection as connection_module
from emotrace.errors import HostedError, Stopped
from emotrace.ledger import MemoryLedger
from emotrace.runner.disk import DiskLedger
from tests.remote.fake import KEY, FakeNdif
from tests.remote.functions import CONDITIONS, PROMPTS, SAMPLES
from tests.tiny import close, tiny_hf, tiny_model


@pytest.fixture
def server():
    fake = FakeNdif(tiny_model())
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Tries follow each other at once, and no key of this machine's is used."""
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    monkeypatch.setattr(connection_module, "api_key", lambda: "")
    for module in (backend, connection_module):
        monkeypatch.setattr(module, "pause", lambda seconds: time.sleep(min(seconds, 0.01)))


def hosted(server, **settings):
    """The server's model, reached over HTTP; a model in memory has no key on a server, so it is given one."""
    nn = server.model.nn
    nn.__dict__["to_model_key"] = lambda: "fake"
    defaults = {"patience": 2.0, "grace": 0.2}
    return et.Model(nn, identity="org/tiny", ndif=et.Ndif(server.url, **(defaults | settings)))


def replies(model, **options):
    return et.generate_replies(model, PROMPTS, max_new_tokens=5, batch_tokens=30, **options)


def fail_once(description):
    told = []

    def fails(job):
        told.append(job)
        return description if len(told) == 1 else None

    return fails


def test_it_gives_what_runs_here_and_counts(server):
    model = hosted(server)
    found = et.capture(model, SAMPLES, CONDITIONS)
    expected = et.capture(tiny_model(), SAMPLES, CONDITIONS)
    assert close(found.last["heads"], expected.last["heads"], 1e-12)
    assert replies(model) == replies(tiny_model())
    counted = model.spent
    assert counted["requests"] == len(server.submitted) == 2
    assert counted["bytes_received"] == sum(map(len, server.results.values()))
    assert counted["bytes_sent"] > 1000
    assert counted["seconds_waited"] > 0


@pytest.mark.parametrize(
    "description",
    [
        "Error submitting request to model deployment. Please try again later.",
        "Replica was evicted while running.",
        "Critical server error occurred. Please try again later.",
        "Your job was cancelled or preempted by the server.",
    ],
)
def test_a_job_that_the_server_lost_is_submitted_again(server, description):
    server.fails = fail_once(description)
    assert replies(hosted(server)) == replies(tiny_model())
    assert len(server.submitted) == 2
    assert len(server.finished) == 1


def test_a_server_that_keeps_failing_is_given_up(server):
    server.fails = lambda job: "Error submitting request to model deployment."
    with pytest.raises(HostedError, match=r"failed the same request 5 times \(Error submitting"):
        replies(hosted(server))
    assert len(server.submitted) == backend.TRIES


def test_an_error_in_the_block_is_not_tried_again_and_names_the_users_line(server):
    model = hosted(server)
    ids = torch.tensor(PROMPTS[:1])
    server.fails = lambda job: (
        "Traceback (most recent call last):\n"
        '  File "/srv/ndif/nns.py", line 183, in execute\n    tracer.execute()\n'
        f'  File "{__file__}", line 77, in work\n    model.blocks[9]\nIndexError: list index out of range\n'
    )
    with pytest.raises(HostedError, match=rf"IndexError: list index out of range \({__file__}:77, .*'org/tiny'\)"):
        with model.trace(ids):
            state = model.blocks[1].output.save()
    assert len(server.submitted) == 1
    assert "state" not in locals()


@pytest.mark.parametrize(
    ("description", "kind", "message"),
    [
        ("Could not deploy this model. It does not fit.", HostedError, r"does not host 'org/tiny' \(It does not fit"),
        ("no module at 'model.x' in this architecture", HostedError, "builds 'org/tiny' otherwise than this machine"),
        (
            "The payload could not be read: bad",
            HostedError,
            "cannot read what was sent .*install the server's versions",
        ),
        ("Something else.", HostedError, "http.*: Something else"),
    ],
)
def test_what_cannot_go_well_is_said_once(server, description, kind, message):
    server.fails = lambda job: description
    with pytest.raises(kind, match=message) as error:
        replies(hosted(server))
    assert len(server.submitted) == 1
    if "deploy" in description:
        assert "hosted there: org/other" in str(error.value)


@pytest.mark.parametrize(
    "description", ["Your job exceeded the execution timeout of 2.0s.", "torch.OutOfMemoryError: CUDA out of memory"]
)
def test_a_request_that_is_too_large_is_cut(server, description):
    sizes = []

    def fails(job):
        sizes.append(job)
        return description if len(sizes) == 1 else None

    server.fails = fails
    with pytest.warns(RuntimeWarning, match="ran out on a batch of 5 rows; it was cut to 3"):
        assert replies(hosted(server)) == replies(tiny_model())
    assert len(server.finished) == 2


def test_one_row_that_is_too_large_is_an_error(server):
    server.fails = lambda job: "Your job exceeded the execution timeout of 2.0s."
    with pytest.raises(et.EmotraceError, match="time ran out on one row alone"):
        replies(hosted(server))


@pytest.mark.parametrize(
    ("status", "detail", "message"),
    [
        (401, "Missing or invalid API key.", "does not accept the API key"),
        (403, "Invalid API key.", "does not accept the API key"),
        (400, f"Invalid API key format: '{KEY}'.", "does not accept the API key .*key format"),
        (400, "Client nnsight version 0.8.1 is below the minimum supported 0.9.", "Versions do not match"),
        (413, "Too large", "smaller request_tokens"),
        (404, "Not Found", "knows no such address"),
    ],
)
def test_refusals_in_our_words(server, status, detail, message):
    server.answers = lambda method, path: (status, detail) if method == "POST" else None
    with pytest.raises(HostedError, match=message) as error:
        replies(hosted(server))
    assert KEY not in str(error.value)
    assert server.submitted == []


def test_a_server_that_is_away_for_a_while_is_waited_for(server, caplog):
    told = []

    def answers(method, path):
        told.append(path)
        return (503, "compute backend is reconnecting") if len(told) in (3, 4, 6) else None

    server.answers = answers
    assert replies(hosted(server)) == replies(tiny_model())
    assert len(server.submitted) == len(server.finished) == 1
    assert "cannot work at present (compute backend is reconnecting)" in caplog.text
    assert "trying again" in caplog.text


def test_a_server_that_stays_away_is_an_error(server):
    server.answers = lambda method, path: (503, "reconnecting") if path == "/request" else None
    with pytest.raises(HostedError, match="cannot work at present"):
        replies(hosted(server, patience=0.2))


def test_a_job_whose_answer_was_lost_is_not_sent_twice(server):
    server.drops = lambda job: len(server.submitted) == 1
    assert replies(hosted(server)) == replies(tiny_model())
    assert len(server.submitted) == 1


def test_a_result_that_breaks_off_or_expired(server):
    told = []

    def answers(method, path):
        if path.startswith("/result"):
            told.append(path)
            if len(told) == 1:
                return 500, "broken"
            if len(told) == 2:
                return 403, "expired"
        return None

    server.answers = answers
    assert replies(hosted(server)) == replies(tiny_model())
    assert len(server.submitted) == 2  # what has expired is computed again


def test_a_job_that_is_forgotten_after_an_outage_is_submitted_again(server):
    model = hosted(server)
    first = []

    def answers(method, path):
        if path.startswith("/response") and len(server.submitted) == 1:
            first.append(path)
            return (503, "away") if len(first) == 1 else (404, "unknown")
        return None

    server.answers = answers
    assert replies(model) == replies(tiny_model())
    assert len(server.submitted) == 2


def test_work_under_way_is_bounded_and_results_are_in_order():
    running, most = [], []

    def work(batch):
        running.append(batch)
        most.append(len(running))
        time.sleep(0.02 * (batch % 3))
        running.remove(batch)
        return [{"batch": batch}]

    assert MemoryLedger().map("r", range(20), work, workers=3) == [{"batch": batch} for batch in range(20)]
    assert 2 <= max(most) <= 3


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


def test_the_key_travels_in_a_header_only(server, monkeypatch, tmp_path):
    monkeypatch.setattr(connection_module, "api_key", lambda: KEY)
    replies(hosted(server), ledger=DiskLedger(tmp_path / "stage", "key"))
    assert server.headers[0]["ndif-api-key"] == KEY
    assert [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()] == []


def test_only_plain_data_comes_back(server):
    model = hosted(server)
    with pytest.raises(HostedError, match=r"the block saved torch\.nn.*save tensors, numbers, text, lists and dicts"):
        with model.trace(torch.tensor(PROMPTS[:1])):
            bad = torch.nn.Identity().save()
    assert "bad" not in locals()


def test_other_functions_of_ours_are_not_for_blocks(server):
    model = hosted(server)
    with pytest.raises(HostedError, match=r"emotrace\.zero: a server has only emotrace\.apply"):
        with model.trace(torch.tensor(PROMPTS[:1])):
            et.apply(model, et.zero(heads=[(0, 0)]))


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("http://127.0.0.1:9", "nothing answers at http://127.0.0.1:9 .*the server is down, or --host is wrong"),
        ("http://no.such.machine.invalid", "no machine is called 'http://no.such.machine.invalid'"),
        ("ftp://x", "begins with http:// or https://"),
        ("http://me:secret@x", "give the key in NDIF_API_KEY instead"),
        ("http://x:port", "not a URL"),
    ],
)
def test_hosts_that_cannot_be_used(host, message):
    with pytest.raises(HostedError, match=message) as error:
        connection_module.Connection(et.Ndif(host, patience=0.1)).get("/status")
    assert "secret" not in str(error.value)


def test_what_is_no_ndif_server(server):
    server.answers = lambda method, path: (404, "nothing") if path == "/ping" else None
    with pytest.raises(HostedError, match="answers, but it is not an NDIF server"):
        replies(hosted(server))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bundled", {}, "'bundled' is on this machine; a server hosts models of the Hub"),
        (str(et.BUNDLED), {}, "is on this machine"),
        ("org/name", {"device": "cuda"}, "the server decides where the model is"),
        (tiny_hf(), {}, "a model in memory is not hosted anywhere"),
    ],
)
def test_models_that_no_server_has(name, options, message):
    with pytest.raises(et.EmotraceError, match=message):
        et.load(name, remote=True, **options)


@pytest.mark.parametrize("settings", [{"jobs": 0}, {"request_tokens": 1.5}, {"patience": -1}, {"grace": float("nan")}])
def test_settings_are_checked(settings):
    with pytest.raises(HostedError, match=next(iter(settings))):
        et.Ndif("http://x", **settings)


def test_an_error_stops_the_other_threads():
    begun, stopped = [], []

    def work(batch):
        if batch == 0:
            while len(begun) < 2:
                time.sleep(0.001)
            raise KeyError("first")
        begun.append(batch)
        try:
            for _ in range(1000):
                from emotrace.ledger import pause

                pause(0.01)
        except Stopped:
            stopped.append(batch)
            raise
        return []

    with pytest.raises(KeyError, match="first"):
        MemoryLedger().map("r", range(50), work, workers=3)
    assert sorted(stopped) == sorted(begun)
    assert len(begun) < 10
    assert threading.active_count() < 20


def test_the_server_is_asked_with_httpx_only(server):
    assert isinstance(hosted(server).connection._client, httpx.Client)
