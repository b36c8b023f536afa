import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ndif import processes
from tests.ndif.client import run_client
from tests.ndif.conftest import MODEL, WEIGHTS
from tests.ndif.hub_standin import Hub, Repository
from tests.ndif.install import REPOSITORY
from tests.ndif.proxy import Proxy
from tests.ndif.rig import Rig

SETUP = f"""
import json, time, warnings
import anyio._backends._asyncio  # before nnsight, or results from the object store fail
import httpx, torch
from nnsight import CONFIG
from nnsight.intervention.backends.remote import RemoteError
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoTokenizer

CONFIG.APP.REMOTE_LOGGING = False
tokenizer = AutoTokenizer.from_pretrained({MODEL!r})
model = TransformersModel({MODEL!r}, task="text-generation", tokenizer=tokenizer)
ids = torch.arange(5, 15)[None]

def trace(**options):
    with model.trace(ids, **options):
        hidden = model.model.layers[2].output.save()
        logits = model.output.logits.save()
    return hidden, logits
"""
EQUAL = f"""
remote = trace(remote=True)
model = TransformersModel({str(WEIGHTS)!r}, task="text-generation", tokenizer=tokenizer, dispatch=True, dtype="float32")
print(json.dumps([torch.equal(*pair) for pair in zip(remote, trace())]))
"""
UNTIL_ANSWERED = """
errors = []
for attempt in range(60):
    try:
        trace(remote=True)
        break
    except RemoteError as error:
        errors.append(str(error))
        time.sleep(0.5)
print(json.dumps([attempt, errors]))
"""
SLEEP = """
try:
    with model.trace(ids, remote=True):
        for _ in range(300):
            time.sleep(0.1)
        logits = model.output.logits.save()
except RemoteError as error:
    print(json.dumps(str(error)))
"""
HALF_PRECISION = f"""
import emotrace as et
model = et.load({MODEL!r}, remote=True)
print(model.dtype, et.generate(model, "Yuki broke the lamp.", max_new_tokens=8))
model.fingerprint.check(et.load("bundled").fingerprint)
"""
WHOLE = f"""
import emotrace as et
try:
    et.load({MODEL!r}, remote=True, dtype="float32")
except et.EmotraceError as error:
    print(error)
"""
DOWNLOAD = """
with model.trace(ids, remote=True, blocking=False) as tracer:
    logits = model.output.logits.save()
result, errors = None, []
while result is None:
    try:
        result = tracer.backend()
    except httpx.TransportError as error:
        errors.append(type(error).__name__)
    time.sleep(0.1)
print(json.dumps([errors, list(result["logits"].shape)]))
"""


def ask(rig: Rig, script: str) -> Any:
    """What the client printed last, from JSON."""
    return json.loads(run_client(rig, SETUP + script).stdout.splitlines()[-1])


def test_a_remote_trace_equals_a_local_one(rig: Rig) -> None:
    assert ask(rig, EQUAL) == [True, True]


def test_a_restarted_api_answers(rig: Rig) -> None:
    rig.stop_api()
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"{rig.host}/ping")
    rig.start_api()
    assert ask(rig, UNTIL_ANSWERED) == [0, []]


def test_a_backend_is_cut_off_and_connected_again(rig: Rig) -> None:
    rig.disconnect_backend()
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{rig.host}/connected")
    rig.reconnect_backend()
    rig.wait_ready(timeout_s=5)


def test_a_download_is_broken_off_and_repeated(rig: Rig) -> None:
    before = rig.store.received
    rig.store.drop_after(received_bytes=10_000, times=2)
    errors, shape = ask(rig, DOWNLOAD)
    assert errors == ["ReadError", "ReadError"]
    assert shape == [1, 10, 1280]
    assert 10_000 * 2 + 20_000 < rig.store.received - before < 100_000


def test_a_rig_with_other_settings_ends_without_a_trace(rig_home: Path) -> None:
    with Rig(rig_home, {MODEL: WEIGHTS}, dtype="bfloat16", time_limit_s=1.5, name="other") as rig:
        assert run_client(rig, HALF_PRECISION).stdout.startswith("torch.bfloat16 ")
        assert f"{rig.host} holds '{MODEL}' in bfloat16, and float32 was asked for" in run_client(rig, WHOLE).stdout
        assert ask(rig, SLEEP) == "Your job exceeded the execution timeout of 1.5s."
        assert ask(rig, UNTIL_ANSWERED) == [0, []]
        _a_killed_actor_comes_back(rig)
        members = processes.members(rig.state, rig.ray)
        assert len(members) > 10
    assert not [pid for pid in members if _runs(pid)]
    assert not rig.ray.exists()
    for port in rig.ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_rig_ends_with_the_process_that_started_it(rig_home: Path) -> None:
    rig = Rig(rig_home, {MODEL: WEIGHTS}, name="orphan")
    command = [sys.executable, "-m", "tests.ndif", f"{MODEL}={WEIGHTS}", "--home", str(rig_home), "--name", rig.name]
    owner = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    _until(lambda: any("gcs_server" in command for command in processes.members(rig.state, rig.ray).values()))
    assert not _lock_is_free(rig)
    owner.kill()
    owner.wait()
    _until(lambda: not processes.members(rig.state, rig.ray) and not rig.ray.exists())
    _until(lambda: _lock_is_free(rig))


def test_the_hub_knows_its_models_and_refuses_others(hub: str) -> None:
    info = json.load(urllib.request.urlopen(f"{hub}/api/models/Some/model"))
    assert info["id"] == "some/model"
    assert info["safetensors"]["total"] == sum(info["safetensors"]["parameters"].values()) > 1_000_000
    config = urllib.request.urlopen(f"{hub}/some/model/resolve/{info['sha']}/config.json")
    assert config.read() == (WEIGHTS / "config.json").read_bytes()
    assert config.headers["X-Repo-Commit"] == info["sha"]
    assert _refusal(f"{hub}/some/model/resolve/main/none.json") == (404, "EntryNotFound")
    assert _refusal(f"{hub}/some/model/resolve/v2/config.json") == (404, "RevisionNotFound")
    assert _refusal(f"{hub}/some/other/resolve/main/config.json") == (404, "RepoNotFound")
    assert _refusal(f"{hub}/api/models/some/other") == (404, "RepoNotFound")
    assert json.load(urllib.request.urlopen(f"{hub}/api/models/some/gated"))["gated"] == "manual"
    assert _refusal(f"{hub}/some/gated/resolve/main/config.json") == (401, "GatedRepo")
    assert _refusal(f"{hub}/some/gated/resolve/main/config.json", Authorization="Bearer x") == (403, "GatedRepo")


def test_the_proxy_counts_and_breaks_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy(*server.getsockname()) as proxy:
        threading.Thread(target=_answer, args=[server], daemon=True).start()
        assert _exchange(proxy) == 1_000_000
        assert (proxy.sent, proxy.received, proxy.connections) == (5, 1_000_000, 1)
        proxy.drop_after(received_bytes=300_000)
        with pytest.raises(ConnectionResetError):
            _exchange(proxy)
        assert proxy.received == 1_300_000
        proxy.refuse(times=2)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                _exchange(proxy)
        proxy.delay(0.3)
        started = time.monotonic()
        assert _exchange(proxy) == 1_000_000
        assert time.monotonic() - started > 0.3
        proxy.drop_after(received_bytes=0, times=9)
        proxy.restore()
        assert _exchange(proxy) == 1_000_000
        assert proxy.connections == 6
    with pytest.raises(ConnectionError):
        _exchange(proxy)


@pytest.fixture
def hub() -> Iterator[str]:
    with Hub(0, [Repository("some/model", WEIGHTS)], ["some/gated"]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _a_killed_actor_comes_back(rig: Rig) -> None:
    """On a rig with one model, so that there is one actor."""
    ask(rig, UNTIL_ANSWERED)
    killed = rig.kill_actor()
    _, errors = ask(rig, UNTIL_ANSWERED)
    assert set(errors) <= {
        "Error submitting request to model deployment. Please try again later. Sorry for the inconvenience."
    }
    assert len(rig.actors()) == len(killed) == 1
    assert rig.actors() != killed


def _refusal(url: str, **headers: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers))
    return refused.value.code, refused.value.headers["X-Error-Code"]


def _answer(server: socket.socket) -> None:
    """A million bytes to everyone who says something."""
    while True:
        try:
            with server.accept()[0] as client:
                client.recv(5)
                client.sendall(bytes(1_000_000))
        except ConnectionError:  # the client's, which the proxy broke
            continue
        except OSError:
            return


def _exchange(proxy: Proxy) -> int:
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as connection:
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        return sum(len(data) for data in iter(lambda: connection.recv(1 << 16), b""))


def _lock_is_free(rig: Rig) -> bool:
    with (rig.home / f"{rig.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _runs(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}/exe")


def _until(true: Any, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)
