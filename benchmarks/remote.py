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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.ndif.install import default_home, install
from tests.ndif.proxy import Proxy
from tests.ndif.rig import Rig

MODEL = "emotrace/bundled"
WEIGHTS = Path(__file__).parents[1] / "emotrace" / "models" / "bundled" / "weights"
COUNTS = (60, 240)
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
    with ExitStack() as stack:
        rig = stack.enter_context(Rig(install(arguments.home), {MODEL: WEIGHTS}, name="benchmark", time_limit_s=600))
        wire = Wire(rig)
        # read when the Hub's library and nnsight are imported, so none of ours is imported before
        os.environ.update(rig.client_env() | {"NDIF_HOST": wire.api.url, "OMP_NUM_THREADS": "1"})
        print(measure(wire))


def measure(wire: Wire) -> str:
    """All tables, as Markdown."""
    import torch

    import emotrace as et

    model = et.load(MODEL, remote=True)
    here = et.load("bundled")
    assert model.connection is not None
    counters = model.connection.counters
    warm = et.generate(model, "Yuki broke the lamp.", max_new_tokens=2)
    assert warm is not None
    by_stage: list[dict[str, Any]] = []
    naive: list[dict[str, Any]] = []
    for count in COUNTS:
        samples, neutral = data(here, count)
        found: dict[str, Any] = {}

        def keep(name: str, work: Callable[[], Any], found: dict[str, Any] = found) -> Callable[[], None]:
            def kept() -> None:
                found[name] = work()

            return kept

        replies = [list(s.reply) for s in samples]
        prompts = [list(s.prompt) for s in samples]
        stages: dict[str, Callable[[], Any]] = {
            "capture": lambda samples=samples: et.capture(model, samples, ("joy", "neutral")),
            "scores": lambda found=found: et.score_components(
                model,
                found["capture"],
                et.emotion_directions(found["capture"]),
                et.difference_vectors(found["capture"]),
                method="attribution",
            ),
            "influence": lambda found=found, neutral=neutral: et.sublayer_influence(
                model, neutral, et.emotion_directions(found["capture"])
            ),
            "likelihood": lambda prompts=prompts, replies=replies: reply_nll(model, prompts, replies),
            "generation": lambda neutral=neutral: et.generate_replies(model, neutral, max_new_tokens=24),
        }
        from emotrace.trace.likelihood import reply_nll

        for name, work in stages.items():
            row = wire.measured(keep(name, work), lambda: counters["requests"])
            by_stage.append({"stage": name, "prompts": count} | row)
        tokens = sum(len(s.prompt) + len(s.reply) for s in samples)
        row = wire.measured(keep("naive", lambda samples=samples: downloaded(model, samples)), lambda: 0)
        row["requests"] = found["naive"][1]
        naive.append({"prompts": count, "tokens": tokens} | row)
        apart = max(
            float((found["naive"][0][site] - found["capture"].last[site].flatten(2)).abs().max())
            for site in ("heads", "neurons", "resid_attn", "resid_mlp")
        )
        assert apart < 1e-5, f"the two routes differ by {apart}"
        naive[-1]["largest difference"] = apart
    compared = [
        {
            "prompts": row["prompts"],
            "emotrace received": ours["received"],
            "naive received": row["received"],
            "ratio": row["received"] / ours["received"],
            "emotrace s": ours["seconds"],
            "naive s": row["seconds"],
            "largest difference": row["largest difference"],
        }
        for row in naive
        for ours in by_stage
        if ours["stage"] == "capture" and ours["prompts"] == row["prompts"]
    ]
    tables = [("Bytes and requests of each stage", by_stage), ("Capture against a client that downloads", compared)]
    tables.append(("Latency of a request for one number", latencies(model, torch)))
    from benchmarks.record import keep as record

    return record("remote", "Traffic with an NDIF server", tables, (__doc__ or "").partition("\n\n")[2].strip())


def data(model: Any, count: int) -> tuple[list[Any], list[list[int]]]:
    """Teacher-forced samples of two conditions, and neutral prompts, ``count`` of each, from sev-mini."""
    import emotrace as et

    chosen = et.groups(et.load_sev("sev-mini").train)[:count]
    asked = [model.encode([et.prompt(g, c, et.PAPER_SIX) for g in chosen]) for c in ("joy", "neutral")]
    reply = tuple(model.encode(["I am so happy that this went well!"])[0])
    joy = [et.Sample(0, tuple(ids), reply) for ids in asked[0][: count // 2]]
    neutral = [et.Sample(1, tuple(ids), reply) for ids in asked[1][: count - count // 2]]
    return joy + neutral, asked[1]


def downloaded(model: Any, samples: list[Any], rows: int = 32) -> tuple[dict[str, Any], int]:
    """Means at the last prompt token by nnsight's own remote traces, whose activations are downloaded and reduced here.

    Also the number of requests.
    """
    import nnsight
    import torch

    nn, sums, requests = model.nn, {}, 0
    for start in range(0, len(samples), rows):
        part = samples[start : start + rows]
        width = max(len(s.prompt) + len(s.reply) for s in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, s in enumerate(part):
            ids[row, width - len(s.prompt) - len(s.reply) :] = torch.tensor([*s.prompt, *s.reply])
            mask[row, width - len(s.prompt) - len(s.reply) :] = 1
        with nn.trace(ids, attention_mask=mask, remote=True):
            with torch.no_grad():
                states = nnsight.save([])
                for block in nn.model.layers:
                    heads = block.self_attn.o_proj.input
                    middle = block.post_attention_layernorm.input.clone()
                    neurons = block.mlp.down_proj.input
                    states.append((heads, middle, neurons, block.output))
        requests += 1
        for row, s in enumerate(part):
            at = width - 1 - len(s.reply)
            for site, n in (("heads", 0), ("resid_attn", 1), ("neurons", 2), ("resid_mlp", 3)):
                values = torch.stack([layer[n][row, at].double() for layer in states])
                sums.setdefault(site, torch.zeros(2, *values.shape, dtype=torch.float64))[s.condition] += values
    counts = torch.bincount(torch.tensor([s.condition for s in samples]))
    return {site: total / counts[:, None, None] for site, total in sums.items()}, requests


def latencies(model: Any, torch: Any) -> list[dict[str, Any]]:
    """Seconds of the smallest request, by emotrace's jobs and by nnsight's socket, in turns."""
    ids = torch.tensor([[7, 8, 9]])

    def ours() -> float:
        with model.trace(ids, use_cache=False):
            value = model.blocks[0].output[0, -1, 0].item().save()
        return float(value)

    def theirs() -> float:
        with model.nn.trace(ids, use_cache=False, remote=True):
            value = model.nn.model.layers[0].output[0, -1, 0].item().save()
        return float(value)

    assert ours() == theirs()
    times: dict[str, list[float]] = {"emotrace (job, polled)": [], "nnsight (socket)": []}
    for _ in range(REPEATS):
        for name, request in zip(times, (ours, theirs), strict=True):
            start = time.perf_counter()
            request()
            times[name].append(time.perf_counter() - start)
    return [
        {
            "client": name,
            "median ms": 1000 * statistics.median(taken),
            "10 % to 90 %": "{:.0f} to {:.0f}".format(*(1000 * q for q in statistics.quantiles(taken, n=10)[::8])),
        }
        for name, taken in times.items()
    ]


if __name__ == "__main__":
    main()
