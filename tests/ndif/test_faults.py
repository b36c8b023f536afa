"""Faults while a protocol runs: the same results in the end, and nothing computed again that had finished."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.ndif.conftest import MODEL, WEIGHTS
from tests.ndif.rig import Rig
from tests.ndif.runs import command, completed, finish, jobs, same_results, start, submitted

PROTOCOL = "influence"
FEW = "-pelicit.scenarios=6"


@pytest.fixture(scope="module")
def undisturbed(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A run that nothing happens to, and how many jobs it took."""
    out, before = tmp_path_factory.mktemp("undisturbed"), completed(rig)
    finish(start(rig, command(PROTOCOL, out, FEW)))
    return out, completed(rig) - before


def until(found: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not found():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def running(rig: Rig, out: Path) -> bool:
    """Whether a job of this run is being computed right now."""
    for entry in submitted(out)[-4:]:
        answer = httpx.get(f"{rig.host}/response/{entry['job']}")
        if answer.status_code == 200 and answer.json()["status"] == "RUNNING":
            return True
    return False


def printed_through(fault: Callable[[], object], rig: Rig, undisturbed: tuple[Path, int], out: Path) -> str:
    """What a client prints that a fault meets while a job of its runs; results and jobs are those without one."""
    before = completed(rig)
    client = start(rig, command(PROTOCOL, out, FEW))
    until(lambda: running(rig, out))
    fault()
    printed = finish(client)
    same_results(undisturbed[0], out)
    assert completed(rig) - before == undisturbed[1]
    return printed


def test_a_model_actor_that_dies(rig: Rig, undisturbed: tuple[Path, int], tmp_path: Path) -> None:
    printed_through(rig.kill_actor, rig, undisturbed, tmp_path)


def test_an_api_that_is_killed_and_comes_back(rig: Rig, undisturbed: tuple[Path, int], tmp_path: Path) -> None:
    def killed() -> None:
        rig.stop_api()
        time.sleep(2)
        rig.start_api(wait=False)

    printed = printed_through(killed, rig, undisturbed, tmp_path)
    assert f"nothing answers at {rig.host}" in printed
    assert "trying again" in printed


def test_a_backend_that_reconnects(rig: Rig, undisturbed: tuple[Path, int], tmp_path: Path) -> None:
    def away() -> None:
        rig.disconnect_backend()
        time.sleep(4)
        rig.reconnect_backend()

    printed_through(away, rig, undisturbed, tmp_path)


def test_a_download_that_breaks_off(rig: Rig, undisturbed: tuple[Path, int], tmp_path: Path) -> None:
    before, connections = completed(rig), rig.store.connections
    rig.store.drop_after(received_bytes=700, times=3)
    printed = finish(start(rig, command(PROTOCOL, tmp_path, FEW)))
    assert "broke off" in printed
    assert rig.store.connections - connections >= 3
    same_results(undisturbed[0], tmp_path)
    assert completed(rig) - before == undisturbed[1]


@pytest.mark.parametrize("stage", ["elicit", "influence"])
def test_a_client_that_is_killed(rig: Rig, undisturbed: tuple[Path, int], tmp_path: Path, stage: str) -> None:
    before = completed(rig)
    client = start(rig, command(PROTOCOL, tmp_path, FEW))
    kept = tmp_path / "stages" / stage / "batches" / "jobs.jsonl"
    until(lambda: kept.is_file() and kept.read_bytes().endswith(b"\n"))  # opened, and a whole line written
    client.send_signal(signal.SIGKILL)
    client.communicate()
    asked = [entry["job"] for entry in submitted(tmp_path)]
    assert asked
    until(lambda: {jobs(rig).get(job, "COMPLETED") for job in asked} == {"COMPLETED"})  # nobody waits for it
    printed = finish(start(rig, command(PROTOCOL, tmp_path, FEW)))
    assert f"{stage}: computing (resumed)" in printed
    same_results(undisturbed[0], tmp_path)
    assert completed(rig) - before == undisturbed[1]


def test_requests_that_take_longer_than_the_server_allows(
    rig_home: Path, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    with Rig(rig_home, {MODEL: WEIGHTS}, time_limit_s=2, name="other") as rig:
        printed = finish(start(rig, command(PROTOCOL, tmp_path, FEW)))
        assert "time ran out on a batch of" in printed
        assert "request_tokens=" in printed
        assert f"{rig.host} stopped the request after 2.0 s, its limit" in printed
        same_results(undisturbed[0], tmp_path)
        assert set(jobs(rig).values()) == {"COMPLETED", "ERROR"}
