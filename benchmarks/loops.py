"""The published procedure, written straightforwardly with PyTorch hooks on Llama's modules.

A forward pass for each head and prompt, and one for each sublayer, strength and prompt.

A cell is one number of the result: a head's score for one emotion, or a sublayer's influence for one emotion.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch

from emotrace.trace.batches import pad_left, plan_batches

HeadCell = tuple[int, int, int]
"""Emotion, layer, head."""
SublayerCell = tuple[int, int, int]
"""Emotion, layer, sublayer (0 attention, 1 MLP)."""
Directions = Any
"""``emotrace.Directions`` of the model."""


@contextmanager
def hooked(module: Any, hook: Any, *, before: bool = False) -> Iterator[None]:
    """A PyTorch hook for a while."""
    handle = (module.register_forward_pre_hook if before else module.register_forward_hook)(hook)
    try:
        yield
    finally:
        handle.remove()


def head_score(
    hf: Any, prompts: Sequence[Sequence[int]], cell: HeadCell, directions: Directions, budget: int, before: torch.Tensor
) -> float:
    """Mean fall of the state's projection on the direction when a head is zeroed, by running with it zeroed.

    ``before``: :func:`streams` with all heads in place, which the published scripts keep from an earlier pass.
    """
    emotion, layer, head = cell
    block = hf.model.layers[layer]
    width = block.self_attn.head_dim

    def zero(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        heads = args[0].clone()
        heads[..., head * width : (head + 1) * width] = 0
        return (heads, *args[1:])

    with hooked(block.self_attn.o_proj, zero, before=True):
        after = streams(hf, prompts, [layer], budget)[0]
    return float((before[layer] - after) @ directions.vectors[emotion, layer, 0]) / len(prompts)


def streams(hf: Any, prompts: Sequence[Sequence[int]], layers: Sequence[int], budget: int) -> torch.Tensor:
    """The residual stream after some layers' attention at the last token, summed over prompts, ``[len(layers), D]``."""
    total = torch.zeros(len(layers), hf.config.hidden_size, dtype=torch.float64)

    def reader(at: int) -> Any:
        def read(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            total[at] += args[0][:, -1].double().sum(0)

        return read

    with ExitStack() as hooks:
        for at, layer in enumerate(layers):
            norm = hf.model.layers[layer].post_attention_layernorm
            hooks.enter_context(hooked(norm, reader(at), before=True))
        for batch in batches_of(prompts, budget):
            forward(hf, batch)
    return total


def final_states(
    hf: Any,
    prompts: Sequence[Sequence[int]],
    budget: int,
    module: Any = None,
    push: torch.Tensor | None = None,
) -> torch.Tensor:
    """The state after the final norm at the last token, summed over prompts, ``[D]``.

    With a ``module``, ``push [D]`` is added to its output at the last token.
    """
    total = torch.zeros(hf.config.hidden_size, dtype=torch.float64)

    def add(_: Any, __: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        first[:, -1] += push.to(first)  # type: ignore[union-attr]

    def read(_: Any, __: Any, output: torch.Tensor) -> None:
        total.add_(output[:, -1].double().sum(0))

    with hooked(hf.model.norm, read), hooked(module, add) if module is not None else nullcontext():
        for batch in batches_of(prompts, budget):
            forward(hf, batch)
    return total


def influence(
    hf: Any,
    prompts: Sequence[Sequence[int]],
    cell: SublayerCell,
    directions: Directions,
    alphas: Sequence[float],
    budget: int,
    before: torch.Tensor,
) -> float:
    """Shift of the final state along the reference per unit pushed, mean over strengths and prompts.

    ``before``: :func:`final_states` without a push.
    """
    emotion, layer, sublayer = cell
    block = hf.model.layers[layer]
    module = block.mlp if sublayer else block.self_attn
    slopes = []
    for alpha in alphas:
        size = alpha * float(directions.sigma[layer, sublayer])
        push = size * directions.vectors[emotion, layer, sublayer]
        moved = final_states(hf, prompts, budget, module, push) - before
        slopes.append(float(moved @ directions.reference[emotion]) / size / len(prompts))
    return sum(slopes) / len(slopes)


def batches_of(prompts: Sequence[Sequence[int]], budget: int) -> Iterator[Any]:
    """Left-padded batches under a token budget; a budget of 1 gives one prompt a batch."""
    for rows in plan_batches([len(ids) for ids in prompts], budget):
        yield pad_left([prompts[row] for row in rows], 0)


def forward(hf: Any, batch: Any) -> None:
    """A bare forward pass: no cache, logits of the last token."""
    with torch.no_grad():
        hf(batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False, logits_to_keep=1)
