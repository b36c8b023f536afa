"""What the servers of all peer libraries share; it runs in each peer's environment.

A server reads JSON lines `{"op": ..., "arguments": {...}}` and answers each with one line. Only torch, safetensors and
transformers may be imported here: nothing of emotrace is installed beside a peer.
"""

import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

OPS = ("load", "bare", "capture", "edit", "ablations", "generate", "generate_plain")
SITES = ("heads", "resid_attn", "neurons", "resid_mlp")


class UnsupportedError(Exception):
    """The library has no way to do this."""


@dataclass
class Result:
    """What one operation gave: seconds of what a user repeats for each batch, its tensors, and what was done once.

    `setup` is time to prepare an intervention that many batches can share, such as wrapping the model.
    """

    seconds: float
    tensors: dict[str, Tensor]
    setup: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and value of a call."""
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def add_last(states: Tensor, vector: Tensor) -> Tensor:
    """Adds to the last token, in place: `states [B, T, D]`."""
    states[:, -1] += vector
    return states


class Server:
    """A peer library's operations; those that a subclass leaves out answer `unsupported`."""

    package: ClassVar[str]
    """Its name on PyPI."""
    left_padding: ClassVar[bool] = True
    """Whether its results are right for rows that are padded on the left."""
    notes: ClassVar[str] = ""
    """What a reader of its numbers has to know."""

    def load(self, folder: str, batch: str, threads: int) -> Result:
        """The model of a local folder, and the batch that all other operations run on."""
        torch.set_num_threads(threads)
        tensors = load_file(batch)
        self.folder = folder
        self.ids, self.mask = tensors["ids"].long(), tensors["mask"].long()
        # GPT-2 counts positions from the left edge unless told where a padded row begins.
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        self.inputs = {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": self.positions}
        if not self.left_padding and not bool(self.mask.all()):
            raise UnsupportedError(f"{self.package} takes no rows that are padded on the left")
        seconds, self.model = timed(self.plain_model)
        setup, _ = timed(self.prepare)
        names = (self.package, "transformers", "torch")
        more = {
            "versions": {name: importlib.metadata.version(name) for name in names},
            "left_padding": self.left_padding,
            "notes": self.notes,
            "attention": self.model.config._attn_implementation,
        }
        return Result(seconds, {}, setup, more)

    def plain_model(self) -> Any:
        """The model as transformers loads it, with no token that ends a reply: replies have the length asked for."""
        model = transformers.GPT2LMHeadModel.from_pretrained(self.folder).eval()
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        return model

    def prepare(self) -> None:
        """What a library does once for a model."""

    def bare(self) -> Result:
        """A forward pass of plain transformers."""
        seconds, output = timed(lambda: self.model(**self.inputs, logits_to_keep=1, use_cache=False))
        return Result(seconds, {"logits": output.logits[:, -1]})

    def generate_plain(self, new_tokens: int) -> Result:
        """Greedy generation of plain transformers, unsteered."""
        seconds, ids = timed(lambda: self.plain_generate(self.model, new_tokens))
        return Result(seconds, {"ids": ids})

    def plain_generate(self, model: Any, new_tokens: int) -> Tensor:
        """`generate` of transformers, greedy, with a cache: the reply's ids `[B, new_tokens]`."""
        ids = model.generate(
            input_ids=self.ids,
            attention_mask=self.mask,
            do_sample=False,
            max_new_tokens=new_tokens,
            use_cache=True,
        )
        return ids[:, self.ids.shape[1] :]

    def capture(self) -> Result:
        """Means over rows, at the last token, of the four sites of every layer."""
        raise UnsupportedError(f"{self.package} reads no activations at these sites")

    def edit(self, layer: int, vector_file: str) -> Result:
        """A vector added to the residual stream after a block, at the last token."""
        raise UnsupportedError(f"{self.package} cannot add to the last token alone")

    def ablations(self, layer: int) -> Result:
        """One pass in which row i lacks head i mod H of a layer at every token."""
        raise UnsupportedError(f"{self.package} cannot ablate heads")

    def generate(self, layer: int, vector_file: str, new_tokens: int) -> Result:
        """Greedy generation with a vector added to the residual stream after a block, at every token."""
        raise UnsupportedError(f"{self.package} cannot steer a generation")


def read_vector(path: str) -> Tensor:
    """The one tensor `[D]` of a safetensors file."""
    (vector,) = load_file(path).values()
    return vector


def serve(server: Server) -> None:
    """Answers requests from stdin until it ends.

    Arguments of the process: the folder for result files, and the descriptor that replies are written to. stdout is
    not used: libraries print there.
    """
    folder, wire = Path(sys.argv[1]), os.fdopen(int(sys.argv[2]), "w", buffering=1, encoding="utf-8")
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        try:
            reply = _answer(server, request["op"], request["arguments"], folder / f"{number}.safetensors")
        except UnsupportedError as why:
            reply = {"unsupported": str(why)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        wire.write(json.dumps(reply) + "\n")


def _answer(server: Server, op: str, arguments: dict[str, Any], file: Path) -> dict[str, Any]:
    if op not in OPS:
        raise ValueError(f"{op!r} is none of {', '.join(OPS)}")
    with torch.no_grad():
        result: Result = getattr(server, op)(**arguments)
    save_file({name: tensor.contiguous() for name, tensor in result.tensors.items()}, file)
    return {"seconds": result.seconds, "setup_seconds": result.setup, "file": str(file), **result.more}
