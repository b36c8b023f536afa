"""Traffic with an NDIF server: `python -m benchmarks.remote [--home DIR]`, on the rig of tests/ndif.

Bytes are counted by TCP proxies in front of the API and of the object store, so they are what is on the wire, headers
included, for emotrace and for a straightforward nnsight script that downloads activations and reduces them here. Both
compute the same means, which is checked.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import keep
from tests.ndif.install import default_home, install
from tests.ndif.proxy import Proxy
from tests.ndif.rig import Rig

MODEL = "emotrace/bundled"
WEIGHTS = Path(__file__).parents[1] / "emotrace" / "models" / "bundled" / "weights"
COUNTS = (60, 240)
CONDITIONS = ("anger", "sadness", "happiness", "fear", "surprise", "neutral")
REPEATS = 20


class Wire:
    """The proxies between the client and the server."""

    def __init__(self, rig: Rig) -> None:
        self.api = Proxy("127.0.0.1", rig.ports["api"])
        self.proxies = (self.api, rig.store)

    def measured(self, work: Callable[[], Any], counters: Callable[[], Any]) -> dict[str, Any]:
        """Requests, bytes and seconds of some work."""
        before = [(proxy.sent, proxy.received) for proxy in self.proxies]
        asked, start = counters(), time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        sent, received = (
            sum((proxy.sent, proxy.received)[i] - old[i] for proxy, old in zip(self.proxies, before, strict=True))
            for i in range(2)
        )
        return {"requests": int(counters() - asked), "sent": sent, "received": received, "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=default_home())
    arguments = parser.parse_args()
    with Rig(install(arguments.home), {MODEL: WEIGHTS}, name="benchmark", time_limit_s=600) as rig:
        wire = Wire(rig)
        # read when the Hub's library and nnsight are imported, so none of ours is imported before
        os.environ.update(rig.client_env() | {"NDIF_HOST": wire.api.url, "OMP_NUM_THREADS": "1"})
        print(measure(wire))


def measure(wire: Wire) -> str:
    """All tables, as Markdown."""
    import nnsight

    import emotrace as et

    nnsight.CONFIG.APP.REMOTE_LOGGING = False
    model, here = et.load(MODEL, remote=True), et.load("bundled")
    et.generate(model, "Yuki broke the lamp.", max_new_tokens=2)  # deploys the model
    by_stage: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    for count in COUNTS:
        samples, neutral = data(here, count)
        found: dict[str, Any] = {}
        for name, work in stages(model, samples, neutral, found).items():
            row = wire.measured(partial(kept, found, name, work), lambda: model.spent.get("requests", 0))
            by_stage.append({"stage": name, "prompts": count} | row)
            if name == "capture":
                ours = row
        theirs = wire.measured(partial(kept, found, "naive", partial(downloaded, model, samples)), lambda: 0)
        means = found["capture"].last
        apart = max(float((total - means[site].flatten(2)).abs().max()) for site, total in found["naive"].items())
        assert apart < 1e-5, f"the two routes differ by {apart}"
        compared.append(
            {
                "prompts": count,
                "emotrace received": ours["received"],
                "naive received": theirs["received"],
                "ratio": theirs["received"] / ours["received"],
                "emotrace s": ours["seconds"],
                "naive s": theirs["seconds"],
                "largest difference": apart,
            }
        )
    tables = [
        ("Bytes and requests of each stage", by_stage),
        ("Capture, against a client that downloads activations", compared),
        ("Latency of a request for one number", latencies(model)),
    ]
    return keep("remote", "Traffic with an NDIF server", tables, __doc__)


def kept(found: dict[str, Any], name: str, work: Callable[[], Any]) -> None:
    """Do some work and keep what it gives."""
    found[name] = work()


def stages(
    model: Any, samples: list[Any], neutral: list[list[int]], found: dict[str, Any]
) -> dict[str, Callable[[], Any]]:
    """What a study asks of a model, in order; later stages use what earlier ones have ``found``."""
    import emotrace as et
    from emotrace.trace.likelihood import reply_nll

    def scores() -> Any:
        statistics = found["capture"]
        directions, differences = et.emotion_directions(statistics), et.difference_vectors(statistics)
        return et.score_components(model, statistics, directions, differences, method="attribution")

    return {
        "capture": lambda: et.capture(model, samples, CONDITIONS),
        "scores": scores,
        "influence": lambda: et.sublayer_influence(model, neutral, et.emotion_directions(found["capture"])),
        "likelihood": lambda: reply_nll(model, [s.prompt for s in samples], [s.reply for s in samples]),
        "generation": lambda: et.generate_replies(model, neutral, max_new_tokens=24),
    }


def data(model: Any, count: int) -> tuple[list[Any], list[list[int]]]:
    """Teacher-forced samples of all conditions and neutral prompts, ``count`` of each, from sev-mini."""
    import emotrace as et

    chosen = et.groups(et.load_sev("sev-mini").train)[:count]
    reply = tuple(model.encode(["I am so happy that this went well!"])[0])
    asked = [model.encode([et.prompt(group, c, et.PAPER_SIX) for group in chosen]) for c in CONDITIONS]
    samples = [et.Sample(n % len(CONDITIONS), tuple(asked[n % len(CONDITIONS)][n]), reply) for n in range(count)]
    return samples, asked[-1]


def downloaded(model: Any, samples: list[Any], rows: int = 32) -> dict[str, Any]:
    """Means at the last prompt token by nnsight's own remote traces, reduced here from activations of every token."""
    import nnsight
    import torch

    from emotrace.trace.batches import pad_left

    nn = model.nn
    sums: dict[str, Any] = {}
    for start in range(0, len(samples), rows):
        part = samples[start : start + rows]
        batch = pad_left([[*s.prompt, *s.reply] for s in part], model.pad_token)
        ids, mask = batch.ids, batch.mask
        with nn.trace(ids, attention_mask=mask, remote=True):
            with torch.no_grad():
                states = nnsight.save([])
                for block in nn.model.layers:
                    heads = block.self_attn.o_proj.input
                    middle = block.post_attention_layernorm.input.clone()
                    neurons = block.mlp.down_proj.input
                    states.append((heads, middle, neurons, block.output))
        for row, s in enumerate(part):
            at = ids.shape[1] - 1 - len(s.reply)
            for n, site in enumerate(("heads", "resid_attn", "neurons", "resid_mlp")):
                values = torch.stack([layer[n][row, at].double() for layer in states])
                total = sums.setdefault(site, torch.zeros(len(CONDITIONS), *values.shape, dtype=torch.float64))
                total[s.condition] += values
    counts = torch.bincount(torch.tensor([s.condition for s in samples]))
    return {site: total / counts[:, None, None] for site, total in sums.items()}


def latencies(model: Any) -> list[dict[str, Any]]:
    """Time of the smallest request, by emotrace's jobs and by nnsight's socket, in turns."""
    import torch

    ids, nn = torch.tensor([[7, 8, 9]]), model.nn

    def ours() -> float:
        with model.trace(ids, use_cache=False):
            value = model.blocks[0].output[0, -1, 0].clone().save()
        return float(value)

    def theirs() -> float:
        with nn.trace(ids, use_cache=False, remote=True):
            value = nn.model.layers[0].output[0, -1, 0].clone().save()
        return float(value)

    assert ours() == theirs()
    clients = {"emotrace (job, polled)": ours, "nnsight (socket)": theirs}
    times: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(REPEATS):
        for name, request in clients.items():
            start = time.perf_counter()
            request()
            times[name].append(1000 * (time.perf_counter() - start))
    rows = []
    for name, taken in times.items():
        low, *_, high = statistics.quantiles(taken, n=10)
        rows.append({"client": name, "median ms": statistics.median(taken), "10 % ms": low, "90 % ms": high})
    return rows


if __name__ == "__main__":
    main()
