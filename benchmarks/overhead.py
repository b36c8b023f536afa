"""What reading and editing cost: `python -m benchmarks overhead`.

GPT-2 with random weights, one batch, nothing padded: the means of four sites in every layer (emotrace: all
statistics), a vector added at the last token, one head zeroed in each row (another one in every row), and generation
with a vector added at every token. Ratios are to plain transformers in the same process and the same round: a bare
forward pass (`logits_to_keep=1`, `use_cache=False`), or unsteered generation. Peers run in environments of their own
and are measured in the same rounds. All must compute what hooks compute.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks import contenders, shapes
from benchmarks.contenders import Task, Tensors
from benchmarks.peers.client import Peer
from benchmarks.record import keep
from benchmarks.shapes import SMALL, TINY, Shape
from benchmarks.timing import in_turn, ratios, spread, timed

OPERATIONS = ("capture", "edit", "ablations", "generate")
PEERS = ("transformer_lens", "pyvene")
TOLERANCE = 1e-3
"""Of logits and means, relative to the largest; peers that replace attention differ by a few 1e-5."""
Call = Callable[[], float]


def task_of(shape: Shape, batch: int, length: int, new_tokens: int) -> Task:
    """A batch for a model of this shape."""
    ids = torch.tensor(shapes.prompts(batch, length))
    vector = torch.randn(shape.width, generator=torch.Generator().manual_seed(1))
    return Task(ids, shape.layers // 2, vector, new_tokens)


def saved(module: Any, task: Task, scratch: Path) -> tuple[Path, Path, Path]:
    """Files for peers: the model's folder, the batch, the vector that is added."""
    batch, vector = scratch / "batch.safetensors", scratch / "vector.safetensors"
    save_file({"ids": task.ids, "mask": torch.ones_like(task.ids)}, batch)
    save_file({"vector": task.vector}, vector)
    return shapes.folder_of(module, scratch / "model"), batch, vector


class Results:
    """The last result of each contender and operation, for the comparison."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Tensors] = {}

    def here(self, name: str, operation: str, call: Callable[[], Tensors]) -> Call:
        """A call in this process that reports its seconds."""

        def work() -> None:
            self.found[name, operation] = call()

        return lambda: timed(work)

    def there(self, peer: Peer, operation: str, asked: str, **arguments: Any) -> Call:
        """A call of a peer, which reports its seconds itself."""

        def call() -> float:
            reply = peer.call(asked, **arguments)
            if "unsupported" in reply:
                raise RuntimeError(f"{peer.name}: {reply['unsupported']}")
            self.found[peer.name, operation] = load_file(reply["file"])
            return float(reply["seconds"])

        return call

    def apart(self, name: str, operation: str) -> float:
        """Largest difference from the hooks' result, relative to its largest value; of ids, the share that differs."""
        mine, theirs = self.found[name, operation], self.found["hooks", operation]
        if operation == "generate":
            return float((mine["ids"] != theirs["ids"]).float().mean())
        # torch's maximum keeps NaN, Python's may lose it
        return float(
            torch.stack([(mine[key] - theirs[key]).abs().max() / theirs[key].abs().max() for key in theirs]).max()
        )


def measure(shape: Shape, rounds: int, peers: tuple[str, ...], **sizes: int) -> list[dict[str, Any]]:
    """Rows of one size's table."""
    task, results = task_of(shape, **sizes), Results()
    rows = []
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as processes:
        folder, batch, vector = saved(shapes.gpt2(shape), task, Path(scratch))
        others = {name: processes.enter_context(Peer(name)) for name in peers}
        for peer in others.values():
            peer.call("load", folder=folder, batch=batch, threads=torch.get_num_threads())
        plain = contenders.bare(shapes.gpt2(shape), task)
        mine: dict[str, Mapping[str, Callable[[], Tensors]]] = {
            "hooks": contenders.by_hooks(shapes.gpt2(shape), task),
            "nnsight by hand": contenders.by_hand(shapes.gpt2(shape), task),
            "emotrace": contenders.ours(shapes.load(shapes.gpt2(shape)), task),
        }
        arguments: dict[str, dict[str, Any]] = {
            "capture": {},
            "edit": {"layer": task.layer, "vector_file": vector},
            "ablations": {"layer": task.layer},
            "generate": {"layer": task.layer, "vector_file": vector, "new_tokens": task.new_tokens},
        }
        for operation in OPERATIONS:
            of_plain = "generate" if operation == "generate" else "forward"
            of_peer = {"generate_plain": {"new_tokens": task.new_tokens}, "bare": {}}
            asked = "generate_plain" if operation == "generate" else "bare"
            calls = {"plain": results.here("plain", operation, plain[of_plain])}
            calls |= {name: results.here(name, operation, them[operation]) for name, them in mine.items()}
            for name, peer in others.items():
                calls[f"{name}, plain"] = results.there(peer, f"{operation}, plain", asked, **of_peer[asked])
                calls[name] = results.there(peer, operation, operation, **arguments[operation])
            seconds = in_turn(calls, rounds)
            for name in (*mine, *others):
                base = f"{name}, plain" if name in others else "plain"
                apart = results.apart(name, operation)
                assert apart < TOLERANCE, f"{name} differs in {operation} by {apart:.2g}"
                rows.append(
                    {
                        "operation": operation,
                        "by": name,
                        "ms": spread([1000 * s for s in seconds[name]]),
                        "times plain": ratios(seconds[name], seconds[base]),
                        "times hooks": ratios(seconds[name], seconds["hooks"]),
                        "difference from hooks": apart,
                    }
                )
    return rows


def main(
    *,
    tiny: tuple[int, int, int] = (16, 32, 16),
    small: tuple[int, int, int] = (16, 48, 12),
    rounds: tuple[int, int] = (15, 7),
    peers: tuple[str, ...] = PEERS,
) -> str:
    """Measure and keep the tables; sizes are rows, tokens and new tokens of the batch."""
    tables = []
    for shape, sizes, count in ((TINY, tiny, rounds[0]), (SMALL, small, rounds[1])):
        named = dict(zip(("batch", "length", "new_tokens"), sizes, strict=True))
        caption = f"Width {shape.name} layers, {sizes[0]} rows of {sizes[1]} tokens, {sizes[2]} new tokens"
        tables.append((caption, measure(shape, count, peers, **named)))
    return keep("overhead", "The cost of reading and editing", tables, __doc__)
