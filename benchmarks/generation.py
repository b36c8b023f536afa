"""Tokens per second of steered generation: `python -m benchmarks generation`.

GPT-2 with random weights, width 768 and 12 layers, greedy, prompts that begin differently. The plan is one of a
circuit's size: 1 in 32 heads and 2.5 % of the neurons, pushed at reply tokens; compiled, the same at all tokens, in
biases. Each is measured against plain transformers with the same kind of cache, pair by pair of the same round. A
peer adds a vector to the residual stream after one block, and is measured against plain transformers in its own
environment. The compiled model's replies are compared with those of the traced intervention; the steered ones with
hooks that add the same. A second copy of the plain model is measured like the others: what its ratio is away from 1
is noise of the machine.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import emotrace as et
from benchmarks import contenders, shapes
from benchmarks.contenders import Task
from benchmarks.loops import hooked
from benchmarks.overhead import Results, saved, task_of
from benchmarks.peers.client import Peer
from benchmarks.record import keep
from benchmarks.timing import in_turn, ratios, spread
from emotrace.trace.biases import with_biases
from emotrace.trace.generate import CACHES

PEERS = ("repeng", "steering_vectors")


def circuit_like(model: et.Model, tokens: str) -> et.Plan:
    """Random components of a default circuit's number, with random values."""
    sizes, generator = model.sizes, torch.Generator().manual_seed(2)
    plan = et.Plan()
    for site, share in (("heads", 1 / 32), ("neurons", 0.025)):
        count, width = sizes.shape(site)
        chosen = torch.randperm(sizes.layers * count, generator=generator)[: int(share * sizes.layers * count)].tolist()
        values = {(n // count, n % count): 0.3 * torch.randn(width, generator=generator) for n in chosen}
        plan = plan + et.add(values, site, tokens=tokens)
    return plan


def by_hooks(hf: Any, task: Task, plan: et.Plan) -> torch.Tensor:
    """Replies ``[B, new_tokens]`` under a plan of additions at reply tokens, by hooks on the projections."""
    additions: dict[tuple[str, int], torch.Tensor] = {}
    for edit in plan.edits:
        count, width = (
            (hf.config.n_head, hf.config.n_embd // hf.config.n_head) if edit.site == "heads" else (hf.config.n_inner, 1)
        )
        total = additions.setdefault((edit.site, edit.layer), torch.zeros(count, width))
        total[list(edit.index)] += edit.add.float()

    def adder(value: torch.Tensor) -> Callable[..., Any]:
        def add(_: Any, args: Any) -> Any:
            moved = args[0].clone()
            moved[:, -1] += value.flatten()
            return (moved, *args[1:])

        return add

    with ExitStack() as hooks:
        for (site, layer), value in additions.items():
            block = hf.transformer.h[layer]
            module = block.attn.c_proj if site == "heads" else block.mlp.c_proj
            hooks.enter_context(hooked(module, adder(value), before=True))
        return hf.generate(task.ids, **task.options)[:, task.ids.shape[1] :]


def measure(task: Task, rounds: int, fewer: int, peers: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of one batch size."""
    results = Results()
    hf = shapes.gpt2(shapes.SMALL)
    model = shapes.load(shapes.gpt2(shapes.SMALL))
    prompts, budget = task.ids.tolist(), task.ids.numel() + len(task.ids) * task.new_tokens
    reply, always = circuit_like(model, "reply"), circuit_like(model, "all")
    compiled = with_biases(model, always)

    def plain(given: Any, **more: Any) -> Callable[[], dict[str, torch.Tensor]]:
        return lambda: {"ids": given.generate(task.ids, **{**task.options, **more})[:, task.ids.shape[1] :]}

    def steered(plan: et.Plan, cache: str = "dynamic") -> Callable[[], dict[str, torch.Tensor]]:
        def call() -> dict[str, torch.Tensor]:
            options: dict[str, Any] = {"max_new_tokens": task.new_tokens, "batch_tokens": budget, "cache": cache}
            return {"ids": torch.tensor([r.ids for r in et.generate_replies(model, prompts, plan, **options)])}

        return call

    calls = {
        "plain": plain(hf),
        "compiled": plain(compiled),
        "plain, again": plain(shapes.gpt2(shapes.SMALL)),
        "steered": steered(reply),
    }
    static = {"plain, static cache": plain(hf, **CACHES["static"]), "steered, static cache": steered(reply, "static")}
    seconds = in_turn({name: results.here(name, "generate", call) for name, call in calls.items()}, rounds)
    seconds |= in_turn({name: results.here(name, "generate", call) for name, call in static.items()}, fewer)
    expected = {
        "steered": by_hooks(hf, task, reply),
        "compiled": steered(always)()["ids"],
        "plain, again": results.found["plain", "generate"]["ids"],
        "steered, static cache": results.found["steered", "generate"]["ids"],
    }
    rows = []
    against = {"steered": "plain", "compiled": "plain", "plain, again": "plain"}
    for name, base in (against | {"steered, static cache": "plain, static cache"}).items():
        differing = float((results.found[name, "generate"]["ids"] != expected[name]).float().mean())
        assert differing == 0, f"{name}: {differing:.1%} of the tokens are not those expected"
        rows.append(row(task, name, seconds[name], seconds[base], base, differing))
    with tempfile.TemporaryDirectory() as scratch:
        files = saved(hf, task, Path(scratch))
        rows += [of_peer(name, task, hf, files, fewer) for name in peers]
    return rows


def row(task: Task, name: str, mine: list[float], plain: list[float], against: str, differing: float) -> dict[str, Any]:
    """Speeds are medians of tokens per second; the ratio is of speeds, pair by pair."""
    tokens = task.new_tokens * len(task.ids)
    return {
        "batch": len(task.ids),
        "generation": name,
        "against": against,
        "tokens/s": spread([tokens / s for s in mine]).median,
        "plain tokens/s": spread([tokens / s for s in plain]).median,
        "speed, of plain": ratios(plain, mine),
        "pairs": len(mine),
        "tokens that differ": differing,
    }


def of_peer(name: str, task: Task, hf: Any, files: tuple[Path, Path, Path], rounds: int) -> dict[str, Any]:
    """A peer's row; its tokens are compared with hooks on the same model."""
    folder, batch, vector = files
    results, given = Results(), {"new_tokens": task.new_tokens}
    with Peer(name) as peer:
        peer.call("load", folder=folder, batch=batch, threads=torch.get_num_threads())
        calls = {
            "plain": results.there(peer, "plain", "generate_plain", **given),
            "steered": results.there(peer, "generate", "generate", layer=task.layer, vector_file=vector, **given),
        }
        seconds = in_turn(calls, rounds)
        ids = results.found[name, "generate"]["ids"]
    expected = contenders.by_hooks(hf, task)["generate"]()["ids"]
    differing = float((ids != expected).float().mean())
    assert differing < 0.01, f"{name}: {differing:.1%} of the tokens are not those of hooks"
    return row(task, name, seconds["steered"], seconds["plain"], "plain, its environment", differing)


def main(
    *,
    batches: tuple[int, ...] = (1, 8, 32),
    length: int = 32,
    new_tokens: int = 16,
    rounds: int = 15,
    fewer: int = 5,
    peers: tuple[str, ...] = PEERS,
) -> str:
    """Measure and keep the table."""
    rows: list[dict[str, Any]] = []
    for batch in batches:
        rows += measure(task_of(shapes.SMALL, batch, length, new_tokens), rounds, fewer, peers)
    what = "medians and their 95 % intervals, of fewer than six pairs the range"
    caption = f"Prompts of {length} tokens, {new_tokens} new ones; {what}"
    return keep("generation", "Speed of steered generation", [(caption, rows)], __doc__)
