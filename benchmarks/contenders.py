"""The same four measurements by plain PyTorch hooks, by nnsight written by hand, and by emotrace, on GPT-2."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from nnsight import TransformersModel

import emotrace as et
from benchmarks.loops import hooked
from benchmarks.shapes import tokenizer
from emotrace.trace.generate import PLAIN

SITES = ("heads", "resid_attn", "neurons", "resid_mlp")
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """What is measured: a batch, a layer to edit, and what to add there.

    Attributes:
        ids: int64 ``[B, T]``, nothing padded.
        layer: counted from 0.
        vector: ``[D]``, added to the residual stream after the block.
        new_tokens: length of replies.
    """

    ids: torch.Tensor
    layer: int
    vector: torch.Tensor
    new_tokens: int

    @property
    def inputs(self) -> dict[str, Any]:
        """Arguments of a forward pass; its cost is that of the bare one."""
        return {"attention_mask": torch.ones_like(self.ids), "use_cache": False, "logits_to_keep": 1}

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of greedy generation."""
        chosen = {"max_new_tokens": self.new_tokens, "do_sample": False, "pad_token_id": 0}
        return {**PLAIN, **chosen, "attention_mask": torch.ones_like(self.ids)}


def bare(hf: Any, task: Task) -> Mapping[str, Callable[[], Tensors]]:
    """Plain transformers, nothing read or edited."""

    def forward() -> Tensors:
        with torch.no_grad():
            return {"logits": hf(task.ids, **task.inputs).logits[:, -1]}

    def generate() -> Tensors:
        return {"ids": hf.generate(task.ids, **task.options)[:, task.ids.shape[1] :]}

    return {"forward": forward, "generate": generate}


def by_hooks(hf: Any, task: Task) -> Mapping[str, Callable[[], Tensors]]:
    """Hooks on the modules, and nothing more than is needed."""
    blocks = hf.transformer.h
    block, heads, rows = blocks[task.layer], hf.config.n_head, torch.arange(len(task.ids))

    def forward() -> Tensors:
        with torch.no_grad():
            return {"logits": hf(task.ids, **task.inputs).logits[:, -1]}

    def capture() -> Tensors:
        seen: dict[str, list[torch.Tensor]] = {site: [] for site in SITES}

        def reader(site: str) -> Callable[..., None]:
            def read(_: Any, args: Any, output: Any = None) -> None:
                value = args[0] if output is None else output[0] if isinstance(output, tuple) else output
                seen[site].append(value[:, -1].mean(0))

            return read

        with ExitStack() as hooks:
            for each in blocks:
                places = (each.attn.c_proj, each.ln_2, each.mlp.c_proj)
                for site, module in zip(SITES, places, strict=False):
                    hooks.enter_context(hooked(module, reader(site), before=True))
                hooks.enter_context(hooked(each, reader("resid_mlp")))
            forward()
        return {site: torch.stack(values) for site, values in seen.items()}

    def edit() -> Tensors:
        def add(_: Any, __: Any, output: Any) -> None:
            (output[0] if isinstance(output, tuple) else output)[:, -1] += task.vector

        with hooked(block, add):
            return forward()

    def ablations() -> Tensors:
        def zero(_: Any, args: Any) -> Any:
            values = args[0].clone().unflatten(-1, (heads, -1))
            values[rows, :, rows % heads] = 0
            return (values.flatten(-2), *args[1:])

        with hooked(block.attn.c_proj, zero, before=True):
            return forward()

    def generate() -> Tensors:
        def add(_: Any, __: Any, output: Any) -> None:
            (output[0] if isinstance(output, tuple) else output).add_(task.vector)

        with hooked(block, add), torch.no_grad():
            return {"ids": hf.generate(task.ids, **task.options)[:, task.ids.shape[1] :]}

    return {"capture": capture, "edit": edit, "ablations": ablations, "generate": generate}


def by_hand(hf: Any, task: Task) -> Mapping[str, Callable[[], Tensors]]:
    """nnsight as its documentation has it."""
    nn = TransformersModel(hf, tokenizer=tokenizer(), task="text-generation")
    blocks, layer = nn.transformer.h, task.layer
    heads, rows = hf.config.n_head, torch.arange(len(task.ids))

    def capture() -> Tensors:
        with nn.trace(task.ids, **task.inputs):
            with torch.no_grad():
                found = []
                for block in blocks:
                    found.append(block.attn.c_proj.input[:, -1].mean(0))
                    found.append(block.ln_2.input[:, -1].mean(0))
                    found.append(block.mlp.c_proj.input[:, -1].mean(0))
                    found.append(block.output[:, -1].mean(0))
                means = found.save()
        return {site: torch.stack(means[n::4]) for n, site in enumerate(SITES)}

    def edit() -> Tensors:
        with nn.trace(task.ids, **task.inputs):
            with torch.no_grad():
                blocks[layer].output[:, -1] += task.vector
                logits = nn.output.logits[:, -1].save()
        return {"logits": logits}

    def ablations() -> Tensors:
        with nn.trace(task.ids, **task.inputs):
            with torch.no_grad():
                blocks[layer].attn.c_proj.input.unflatten(-1, (heads, -1))[rows, :, rows % heads] = 0
                logits = nn.output.logits[:, -1].save()
        return {"logits": logits}

    def generate() -> Tensors:
        with nn.generate(**task.options) as tracer:
            with tracer.invoke(task.ids):
                for _ in tracer.iter[: task.new_tokens]:
                    blocks[layer].output[:] += task.vector
            with tracer.invoke():
                ids = tracer.result.save()
        return {"ids": ids[:, task.ids.shape[1] :]}

    return {"capture": capture, "edit": edit, "ablations": ablations, "generate": generate}


def ours(model: et.Model, task: Task) -> Mapping[str, Callable[[], Tensors]]:
    """emotrace's public functions, plans made anew in each call; its capture also sums norms and counts, in float64."""
    prompts = task.ids.tolist()
    budget = 4 * task.ids.numel() + len(prompts) * task.new_tokens
    samples = [et.Sample(0, tuple(ids)) for ids in prompts]

    def added() -> Any:
        return et.add({task.layer: task.vector}, "resid_mlp", tokens="last")

    def zeroed() -> Any:
        return [et.zero(heads=[(task.layer, row % model.sizes.heads)]) for row in range(len(prompts))]

    def traced(plan: Any) -> Tensors:
        with model.trace(task.ids, **task.inputs):
            with torch.no_grad():
                et.apply(model, plan)
                logits = model.output.logits[:, -1].save()
        return {"logits": logits}

    def capture() -> Tensors:
        means = et.capture(model, samples, ("all",), batch_tokens=budget).last
        return {site: means[site][0].flatten(1).float() for site in SITES}

    def generate() -> Tensors:
        steered = et.add({task.layer: task.vector}, "resid_mlp", tokens="all")
        replies = et.generate_replies(model, prompts, steered, max_new_tokens=task.new_tokens, batch_tokens=budget)
        return {"ids": torch.tensor([reply.ids for reply in replies])}

    return {
        "capture": capture,
        "edit": lambda: traced(added()),
        "ablations": lambda: traced(zeroed()),
        "generate": generate,
    }
