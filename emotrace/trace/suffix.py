"""The last token's way through the model, recomputed from any layer on a cached prefix with many injections at once."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import nnsight
import torch

from emotrace.errors import DataError
from emotrace.models.traced import Model
from emotrace.trace.batches import pad_left

READOUTS = ("final_norm", "residual")


@dataclass(frozen=True)
class Prefix:
    """A batch of prompts computed up to the last token.

    Attributes:
        cache: keys and values of every token but the last.
        last: int64 ``[B, 1]`` last tokens.
        mask: int64 ``[B, T]``.
        position: int64 ``[B, 1]`` position of the last token.
        inputs: per layer, the last token's residual stream at the block's input, ``[B, 1, D]``.
        final: the unedited readout, float64 ``[B, D]``.
    """

    cache: object
    last: torch.Tensor
    mask: torch.Tensor
    position: torch.Tensor
    inputs: list[torch.Tensor]
    final: torch.Tensor


def compute_prefix(model: Model, prompts: Sequence[Sequence[int]], readout: str) -> Prefix:
    """Run prompts once and keep what a suffix needs; raises ``DataError`` for a prompt of fewer than two tokens."""
    if min(len(ids) for ids in prompts) < 2:
        raise DataError("a prompt of one token has no prefix to share; give prompts of two tokens or more")
    batch = pad_left(prompts, model.pad_token)
    ids, mask, positions = (t.to(model.device) for t in (batch.ids, batch.mask, batch.positions))
    last, position = ids[:, -1:], positions[:, -1:]
    head, head_mask, head_positions = ids[:, :-1], mask[:, :-1], positions[:, :-1]
    with (
        model.lock,
        model.trace(
            head,
            attention_mask=head_mask,
            position_ids=head_positions,
            use_cache=True,
            logits_to_keep=1,
            remote=model.remote,
        ),
    ):
        with torch.no_grad():
            cache = model.output.past_key_values.save()
    used = copy.deepcopy(cache)
    blocks, final_norm = model.blocks, model.final_norm
    with (
        model.lock,
        model.trace(
            last, attention_mask=mask, position_ids=position, past_key_values=used, use_cache=True, remote=model.remote
        ),
    ):
        with torch.no_grad():
            inputs = nnsight.save([])
            for block in blocks:
                inputs.append(block.input.clone())
            source = final_norm.output if readout == "final_norm" else final_norm.input
            final = source[:, -1].double().save()
    model.counters["influence_tokens"] += int(batch.mask.sum())
    return Prefix(cache, last, mask, position, list(inputs), final)


def inject(
    model: Model, prefix: Prefix, layer: int, attn: torch.Tensor, mlp: torch.Tensor, readout: str
) -> torch.Tensor:
    """Readout of the last token with vectors added to what layer ``layer``'s sublayers add to the residual stream.

    Args:
        model: the model of the prefix.
        prefix: from :func:`compute_prefix` with the same readout.
        layer: blocks below it are skipped, since an edit at the last token cannot change them.
        attn: ``[V, D]`` added to what attention adds, one row per variant (zeros where only the MLP is edited).
        mlp: ``[V, D]`` added to what the MLP adds.
        readout: ``final_norm`` (after the final norm) or ``residual`` (in front of it).

    Returns:
        float64 ``[B, V, D]``.
    """
    rows, variants = prefix.last.shape[0], attn.shape[0]
    cache = copy.deepcopy(prefix.cache)
    cache.batch_repeat_interleave(variants)  # type: ignore[attr-defined]

    def repeated(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(variants, 0)

    last, mask, position = repeated(prefix.last), repeated(prefix.mask), repeated(prefix.position)
    start = repeated(prefix.inputs[layer])
    attn_rows = attn.to(start).repeat(rows, 1)
    mlp_rows = mlp.to(start).repeat(rows, 1)
    skipped, final_norm = model.blocks[:layer], model.final_norm
    attn_out, mlp_out = model.attn_out[layer], model.mlp_out[layer]
    with (
        model.lock,
        model.trace(
            last, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True, remote=model.remote
        ),
    ):
        with torch.no_grad():
            for block in skipped:
                block.skip(start)
            attn_out.output[:, -1] += attn_rows
            mlp_out.output[:, -1] += mlp_rows
            source = final_norm.output if readout == "final_norm" else final_norm.input
            final = source[:, -1].double().save()
    model.counters["influence_tokens"] += rows * variants
    return final.unflatten(0, (rows, variants))
