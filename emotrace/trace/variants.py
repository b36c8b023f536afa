"""Many zeroings in one forward pass: rows of a batch that differ only in the component they lack."""

from collections.abc import Sequence

import torch

from emotrace.models.traced import Model
from emotrace.trace.batches import pad_left


def zeroing_falls(
    model: Model, prompt: Sequence[int], site: str, layer: int, components: Sequence[int], direction: torch.Tensor
) -> torch.Tensor:
    """Fall of the residual stream's projection on ``direction`` when components of ``layer`` are zeroed one at a time.

    The components are really zeroed, at every token, in rows of one batch beside an unedited row, and the residual
    stream is read after the sublayer's add, at the last token.

    Args:
        model: any model.
        prompt: token ids of one prompt (rows have equal length, so nothing is padded).
        site: ``heads`` or ``neurons``.
        layer: counted from 0.
        components: K indices.
        direction: ``[D]``.

    Returns:
        float64 ``[K]``.
    """
    batch = pad_left([prompt] * (len(components) + 1), model.pad_token)
    ids, mask = batch.ids.to(model.device), batch.mask.to(model.device)
    width = model.sizes.head_width if site == "heads" else 1
    count = model.sizes.heads if site == "heads" else model.sizes.neurons
    keep = torch.ones(len(components) + 1, 1, count, width, dtype=model.dtype)
    for row, component in enumerate(components):
        keep[row, :, component] = 0
    keep = keep.flatten(2).to(model.device)
    projection = (model.out_proj if site == "heads" else model.down_proj)[layer]
    mid_norm, block = model.mid_norm[layer], model.blocks[layer]
    target = direction.double().to(model.device)
    with (
        model.lock,
        model.trace(ids, attention_mask=mask, use_cache=False, logits_to_keep=1, remote=model.remote) as tracer,
    ):
        with torch.no_grad():
            values = projection.input
            values[:] = values * keep
            stream = mid_norm.input if site == "heads" else block.output
            projected = (stream[:, -1].double() @ target).save()
            tracer.stop()
    model.counters["causal_tokens"] += ids.numel()
    return (projected[-1] - projected[:-1]).cpu()
