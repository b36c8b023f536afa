"""The published NDIF server on this machine, without a GPU: Redis, an S3 store, a Hub, Ray, the controller and the API.

`with Rig(install(), {"org/name": folder}) as rig: run_client(rig, script)`
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO

from tests.ndif import ports, processes
from tests.ndif.proxy import Proxy

HERE = Path(__file__).parent
SERVICES = ["redis", "s3", "hub", "api", "gcs", "client", "dashboard", "agent"]
START_S = 180.0


class RigError(Exception):
    """A part of the rig did not do what it was asked to."""


@dataclass
class Rig:
    """One server and its Hub; results that are not sent over the client's own connection come through `rig.store`."""

    home: Path
    """A folder made by `install`."""
    models: Mapping[str, Path]
    """What the Hub and the server know: "org/name" to folder."""
    _: KW_ONLY
    dtype: str = "float32"
    """What the server loads models in."""
    time_limit_s: float = 60.0
    """How long one job may run."""
    sandbox: bool = False
    """Run blocks in processes of their own, as for untrusted users."""
    gated: Collection[str] = ()
    """Repositories whose files the Hub refuses."""
    memory_bytes: int = 8_000_000_000
    """Room for models; a larger one cannot be deployed."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """More settings of the server (NDIF_...)."""
    name: str = "rig"
    """One rig at a time in each `home / name`, which holds its logs and caches and is emptied at each start."""

    def __post_init__(self) -> None:
        self.state = self.home.absolute() / self.name
        self.logs = self.state / "logs"
        # Ray's sockets lie below, and the path of one may have 107 bytes.
        self.ray = Path(f"/tmp/ndif-{os.getuid()}-{hashlib.sha1(os.fsencode(self.state)).hexdigest()[:8]}")
        self.bin = self.home.absolute() / "venv" / "bin"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock: IO[str] | None = None

    @property
    def host(self) -> str:
        """The API, as nnsight's `NDIF_HOST`."""
        return f"http://127.0.0.1:{self.ports['api']}"

    @property
    def hub(self) -> str:
        """The Hub, as `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.ports['hub']}"

    def client_env(self) -> dict[str, str]:
        """What a client's environment needs before huggingface_hub and nnsight are imported."""
        loopback = dict.fromkeys(["NO_PROXY", "no_proxy"], "127.0.0.1,localhost")
        hub = {"HF_ENDPOINT": self.hub, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        return {"NDIF_HOST": self.host, "HF_HOME": str(self.state / "hf-client")} | hub | loopback

    def start(self) -> "Rig":
        """Start everything; returns when the API says that its backend is connected."""
        self._take_lock()
        try:
            self.ports = dict(zip(SERVICES, ports.free(len(SERVICES)), strict=True))
            self.store = Proxy("127.0.0.1", self.ports["s3"])
            self._start_services()
            self._start_ray()
            self.start_api(wait=False)  # at the same time as the controller, for which it waits
            self._start_controller()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End this rig's processes and no others, and remove Ray's folder."""
        if self._lock is None:
            return
        processes.end(self.state, self.ray)
        self.store.close()
        guard = self._children.pop("guard")
        assert guard.stdin is not None
        guard.stdin.close()
        for child in [guard, *self._children.values()]:
            child.wait()
        self._children.clear()
        self._lock.close()
        self._lock = None

    def __enter__(self) -> "Rig":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Until the API says that its backend is connected."""

        def ready() -> bool:
            try:
                with urllib.request.urlopen(f"{self.host}/connected", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        self._wait(ready, "the API is not ready", "api", timeout_s=timeout_s)

    def start_api(self, *, wait: bool = True) -> None:
        """Start the API on the rig's port. Until it is ready, it answers that its backend is reconnecting."""
        self.disconnect_backend()  # what an API that was killed has left in Redis
        application = ["--config", "python:ndif.services.api.gunicorn_conf", "ndif.services.api.app:app"]
        address = f"127.0.0.1:{self.ports['api']}"
        self._spawn("api", "gunicorn", "--bind", address, *application, NDIF_SERVICE="api")
        if wait:
            self.wait_ready()

    def stop_api(self) -> None:
        """Kill the API: its master, its workers, and the dispatcher with the jobs that it had queued."""
        master = self._children.pop("api")
        os.killpg(master.pid, signal.SIGKILL)
        master.wait()
        self._wait(lambda: not ports.listens(self.ports["api"]), "the API still listens", "api", timeout_s=10)

    def restart_api(self) -> None:
        self.stop_api()
        self.start_api()

    def disconnect_backend(self) -> None:
        """From now on the API answers new requests that its backend is reconnecting; jobs that run are not touched."""
        self._redis("DEL ray:connected")

    def reconnect_backend(self) -> None:
        """Undo `disconnect_backend`."""
        self._redis("SET ray:connected 1")

    def actors(self) -> list[int]:
        """The processes that hold a model."""
        titles = ("ray::CPUModelActor", "ray::CPUSandboxActor")
        found = processes.members(self.state, self.ray)
        return [pid for pid, command in found.items() if command.startswith(titles)]

    def kill_actor(self) -> list[int]:
        """Kill the processes that hold a model, there is one once a request has come; Ray starts them again."""
        pids = self.actors()
        if not pids:
            raise RigError("no model is deployed: send a request first")
        for pid in pids:
            processes.kill(pid)
        self._wait(lambda: not set(pids).intersection(self.actors()), "the actor is still there", "ray", timeout_s=10)
        return pids

    def _take_lock(self) -> None:
        """Own the state folder, and have the rig ended should this process be killed."""
        self.state.mkdir(parents=True, exist_ok=True)
        lock = (self.home / f"{self.name}.lock").open("w")
        deadline = time.monotonic() + processes.GRACE_S  # that of a process just killed is let go by its guard
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RigError(f"another rig runs in {self.state}: give this one another name") from None
                time.sleep(0.2)
        self._lock = lock
        processes.end(self.state, self.ray)
        shutil.rmtree(self.state)
        self.logs.mkdir(parents=True)
        guard = [sys.executable, str(HERE / "processes.py"), str(self.state), str(self.ray)]
        self._children["guard"] = subprocess.Popen(
            guard, stdin=subprocess.PIPE, pass_fds=[lock.fileno()], start_new_session=True
        )

    def _environment(self) -> dict[str, str]:
        """The environment of the rig's processes."""
        actor = "CPUSandboxActor" if self.sandbox else "CPUModelActor"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NDIF_", "RAY_", "HF_"))}
        kept["PATH"] = f"{self.bin}{os.pathsep}{kept.get('PATH', os.defpath)}"
        settings = {
            processes.MARK: str(self.state),
            "PYTHONPATH": str(HERE / "shim"),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "RAY_USAGE_STATS_ENABLED": "0",
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            "NDIF_REDIS_URL": f"redis://127.0.0.1:{self.ports['redis']}",
            "NDIF_OBJECT_STORE_URL": f"http://127.0.0.1:{self.ports['s3']}",
            "NDIF_OBJECT_STORE_PUBLIC_URL": self.store.url,
            "NDIF_RAY_ADDRESS": f"ray://127.0.0.1:{self.ports['client']}",
            "NDIF_API_PORT": str(self.ports["api"]),
            "NDIF_CONTROLLER_IMPORT_PATH": "ndif_cpu.CPUControllerActor",
            "NDIF_DEFAULT_MODEL_ACTOR_CLASS": f"ndif_cpu.{actor}",
            "NDIF_SANDBOX_POOL_SIZE": "2",
            "NDIF_DEFAULT_DTYPE": self.dtype,
            "NDIF_DEFAULT_EXECUTION_TIMEOUT_SECONDS": str(self.time_limit_s),
        }
        client = self.client_env() | {"HF_HOME": str(self.state / "hf-server")}
        return kept | client | settings | dict(self.environment)

    def _spawn(self, name: str, command: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [shutil.which(command, path=f"{self.bin}{os.pathsep}{os.environ['PATH']}") or command, *arguments],
                env=self._environment() | environment,
                cwd=self.state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._children[name]

    def _start_services(self) -> None:
        port = {name: str(number) for name, number in self.ports.items()}
        nothing_kept = ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        self._spawn("redis", "redis-server", "--port", port["redis"], "--bind", "127.0.0.1", *nothing_kept)
        self._spawn("s3", "moto_server", "-H", "127.0.0.1", "-p", port["s3"])
        models = [f"{name}={Path(folder).absolute()}" for name, folder in self.models.items()]
        self._spawn("hub", "python", str(HERE / "hub_standin.py"), port["hub"], *models, "--gated", *self.gated)
        for name in ("redis", "hub", "s3"):
            self._wait(partial(ports.listens, self.ports[name]), f"{name} does not listen", name)

    def _start_ray(self) -> None:
        """The head of a cluster of one machine, with a GPU in name only."""
        memory = f'"cuda_memory_bytes": {self.memory_bytes}, "cpu_memory_bytes": {self.memory_bytes}'
        options = {
            "node-ip-address": "127.0.0.1",
            "num-gpus": "1",
            "num-cpus": "4",
            "object-store-memory": "200000000",
            "resources": f'{{"head": 10, {memory}}}',
            "port": str(self.ports["gcs"]),
            "ray-client-server-port": str(self.ports["client"]),
            "include-dashboard": "true",  # the controller asks it for the cluster's state
            "dashboard-host": "127.0.0.1",
            "dashboard-port": str(self.ports["dashboard"]),
            "dashboard-agent-listen-port": str(self.ports["agent"]),
            "temp-dir": str(self.ray),
        }
        self._run("ray", "ray", "start", "--head", *(f"--{name}={value}" for name, value in options.items()))

    def _start_controller(self) -> None:
        address = f"127.0.0.1:{self.ports['gcs']}"
        controller = "ndif.services.ray.deployments.controller.controller"
        self._run("controller", "python", "-m", controller, RAY_ADDRESS=address)

    def _run(self, name: str, command: str, *arguments: str, **environment: str) -> None:
        child = self._spawn(name, command, *arguments, NDIF_SERVICE="ray", **environment)
        try:
            failed = child.wait(START_S) != 0
        except subprocess.TimeoutExpired:
            failed = True
        if failed:
            raise RigError(f"{command} {' '.join(arguments)} failed; {self._tail(name)}")

    def _wait(self, done: Callable[[], bool], complaint: str, log: str, timeout_s: float = START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            child = self._children.get(log)
            ended = child is not None and child.poll() is not None and log not in ("ray", "controller")
            if ended or time.monotonic() > deadline:
                raise RigError(f"{complaint}; {self._tail(log)}")
            time.sleep(0.1)

    def _tail(self, name: str, lines: int = 30) -> str:
        path = self.logs / f"{name}.log"
        text = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
        return "\n".join([f"the end of {path}:", *text])

    def _redis(self, command: str) -> None:
        answer = ports.ask(self.ports["redis"], f"{command}\r\n".encode())
        if not answer.startswith((b"+", b":")):
            raise RigError(f"Redis answers {answer!r} to {command!r}")
