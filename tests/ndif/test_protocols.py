"""Every shipped protocol gives the same on the server as here, and what travels is counted and holds no secret."""

import json
from pathlib import Path

import pytest

from emotrace.runner import shipped
from tests.ndif.conftest import MODEL, WEIGHTS
from tests.ndif.rig import Rig
from tests.ndif.runs import SMALL, command, finish, same_results, start

KEY = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


@pytest.fixture(scope="module")
def local(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of everything, here."""
    out = tmp_path_factory.mktemp("local")
    finish(start(rig, command("paper", out, model="bundled")))
    return out


@pytest.fixture(scope="module")
def remote(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of everything, on the server."""
    out = tmp_path_factory.mktemp("remote")
    printed = finish(start(rig, command("paper", out), NDIF_API_KEY=KEY))
    assert KEY not in printed
    return out


def test_every_protocol_gives_the_same(local: Path, remote: Path) -> None:
    stages = {path.name for path in (remote / "stages").iterdir()}
    assert stages == set(shipped())
    assert {name.split(".")[0] for name in SMALL} <= stages
    same_results(local, remote)


def test_the_manifest_counts_what_travelled(local: Path, remote: Path) -> None:
    here, there = (json.loads((out / "manifest.json").read_text()) for out in (local, remote))
    for counter in ("requests", "bytes_sent", "bytes_received", "seconds_waited"):
        assert here["counters"].get(counter, 0) == 0
        assert there["counters"][counter] == pytest.approx(
            sum(stage["counters"][counter] for stage in there["stages"].values())
        )
        assert there["counters"][counter] > 0
    tokens = [{k: v for k, v in m["counters"].items() if k.endswith("tokens")} for m in (here, there)]
    assert tokens[0] == tokens[1]
    # weights of half a float each would be four million bytes; means of four sites are a few thousand numbers
    assert there["stages"]["components"]["counters"]["bytes_received"] < 1_500_000
    assert there["model"]["name"] == MODEL
    assert there["model"]["fingerprint"] == here["model"]["fingerprint"]


def test_the_key_is_written_nowhere(rig: Rig, remote: Path) -> None:
    written = [path for path in remote.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_a_finished_run_asks_the_server_for_nothing(rig: Rig, remote: Path) -> None:
    rig.stop_api()
    try:
        assert "control: cached" in finish(start(rig, command("paper", remote)))
    finally:
        rig.start_api()


def test_blocks_run_apart_from_the_model_for_users_who_are_not_trusted(rig_home: Path, tmp_path: Path) -> None:
    few = ("-pelicit.scenarios=3", "-pinfluence.prompts=2")
    kept = (*few, "-pinfluence.gradient=false")
    here, there = tmp_path / "here", tmp_path / "there"
    with Rig(rig_home, {MODEL: WEIGHTS}, sandbox=True, name="other") as rig:
        finish(start(rig, command("circuit", here, *kept, model="bundled")))
        finish(start(rig, command("circuit", there, *kept)))
        same_results(here, there)
        client = start(rig, command("influence", there, *few))
        printed, _ = client.communicate(timeout=240)
        assert client.returncode == 2
        assert "this server runs blocks apart from the model, so there are no gradients" in printed
