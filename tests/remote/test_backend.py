"""Jobs of a server that fails in every way: tried again where that helps, cut where they are too large."""

import threading
import time

import pytest
import torch

import emotrace as et
import emotrace.remote.backend as backend
from emotrace.errors import HostedError, Stopped
from emotrace.ledger import MemoryLedger
from emotrace.trace.capture import state_coordinates
from emotrace.trace.weights import directions_read_back
from tests.remote.clients import fail_once, hosted, replies
from tests.remote.functions import CONDITIONS, PROMPTS, SAMPLES
from tests.tiny import close, tiny_model


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


@pytest.mark.parametrize(
    "work",
    [
        lambda model: state_coordinates(model, PROMPTS, (0, 1, 2)),
        lambda model: directions_read_back(
            model, "heads", torch.eye(32, dtype=torch.float64)[:2, None].expand(2, 3, 32)
        ),
    ],
    ids=["states", "directions"],
)
def test_what_has_no_batches_is_cut_by_layers(server, work):
    server.fails = fail_once("Your job exceeded the execution timeout of 2.0s.")
    with pytest.warns(RuntimeWarning, match="time ran out on a batch of 3 rows; it was cut to 2"):
        found = work(hosted(server))
    assert close(found, work(tiny_model()), 1e-6)
    assert len(server.finished) == 2
