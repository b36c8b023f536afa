"""The last token's way through the model, recomputed from any layer on a cached prefix with many injections at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import nnsight
import torch

from emotrace.errors import DataError
from emotrace.trace.prefixes import continued, cut_anywhere, split, twin

if TYPE_CHECKING:
    from emotrace.models.traced import Model

READOUTS = ("final_norm", "residual")


def injected_shifts(
    model: Model,
    batches: Sequence[Sequence[Sequence[int]]],
    vectors: torch.Tensor,
    sizes: torch.Tensor,
    reference: torch.Tensor,
    readout: str,
) -> torch.Tensor:
    """How far the readout moves when vectors are added to what single sublayers add to the residual stream.

    Every prompt's prefix is computed once; all variants of a layer's last token are recomputed together from that layer
    upward, since an edit at the last token cannot change the layers below. They stand side by side at one position
    behind the prefix, each blind to the others, so that keys and values of the prefix are there once; where attention
    takes no mask of that kind they are rows of a batch. Prefix and suffixes are one request, so that no cache travels.

    Args:
        model: any model.
        batches: prompts of each batch, as token ids.
        vectors: ``[E, L, 2, D]``, of each layer's attention and MLP.
        sizes: ``[A, L, 2]``: variant (e, a) of a sublayer adds ``sizes[a] * vectors[e]`` at the last token.
        reference: ``[E, D]``: variants of e are read along ``reference[e]``.
        readout: ``final_norm`` (after the final norm) or ``residual`` (in front of it).

    Returns:
        float64 ``[L, 2, E, A]``: ``(readout' - readout) . reference[e]``, summed over prompts.

    Raises:
        DataError: a prompt of fewer than two tokens.
    """
    if min(len(ids) for prompts in batches for ids in prompts) < 2:
        raise DataError("a prompt of one token has no prefix to share; give prompts of two tokens or more")
    inputs = []
    variants = 2 * len(vectors) * len(sizes)
    abreast = side_by_side(model, max(len(ids) for prompts in batches for ids in prompts))
    rows, width = (1, variants) if abreast else (variants, 1)
    for prompts in batches:
        batch = split(model, [ids[:-1] for ids in prompts], room=1)
        mask = torch.cat([batch.mask, torch.ones(len(prompts), 1, dtype=torch.long)], 1).to(model.device)
        last = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1)[:, -1:]}
        tokens = torch.tensor([[ids[-1]] for ids in prompts], device=model.device)
        inputs.append((*batch.inputs(model.device), tokens, last))
        model.count(influence_tokens=batch.tokens + len(prompts) * (1 + variants * model.sizes.layers))
    blocks, attn_out, mlp_out, final_norm = model.blocks, model.attn_out, model.mlp_out, model.final_norm
    vectors, sizes, reference = (t.double().cpu() for t in (vectors, sizes, reference))
    total: Any = 0
    with model.lock, model.session():
        for head, pick, ids, given, tokens, last in inputs:
            given = continued(model, head, pick, given)
            with model.trace(ids, **{**given, "use_cache": True}, logits_to_keep=1):
                with torch.no_grad():
                    cache = model.output.past_key_values
            with model.trace(tokens, **last, past_key_values=twin(cache), use_cache=True):
                with torch.no_grad():
                    starts = []
                    for block in blocks:
                        starts.append(block.input.clone())
                    unmoved = (final_norm.output if readout == "final_norm" else final_norm.input)[:, -1].double()
            wide = twin(cache)
            if not abreast:
                wide.batch_repeat_interleave(variants)
            token = tokens.repeat_interleave(rows, 0).expand(-1, width)
            where = {"position_ids": last["position_ids"].repeat_interleave(rows, 0).expand(-1, width)}
            seen = last["attention_mask"].repeat_interleave(rows, 0)
            where["attention_mask"] = blind_to_each_other(seen, width, starts[0].dtype) if abreast else seen
            moved = []
            for layer in range(len(blocks)):
                start = starts[layer].repeat_interleave(rows, 0).expand(-1, width, -1)
                attn, mlp = pushes(vectors[:, layer], sizes[:, layer], start)
                below, attn_adds, mlp_adds = blocks[:layer], attn_out[layer], mlp_out[layer]
                with model.trace(token, **where, past_key_values=twin(wide), use_cache=True, logits_to_keep=1):
                    with torch.no_grad():
                        for block in below:
                            block.skip(start)
                        attn_adds.output[:] += attn
                        mlp_adds.output[:] += mlp
                        final = (final_norm.output if readout == "final_norm" else final_norm.input).double()
                shifted = final.reshape(len(ids), 2, len(vectors), len(sizes), -1)
                shift = shifted - unmoved[:, None, None, None]
                moved.append(torch.einsum("bpead,ed->pea", shift, reference.to(shift.device)).cpu())
            total = total + torch.stack(moved)
        shifts = nnsight.save(total)
    found: torch.Tensor = shifts
    return found


def pushes(vectors: torch.Tensor, sizes: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What every variant adds at attention and at the MLP, in the dtype, shape and on the device of ``start``.

    Args:
        vectors: ``[E, 2, D]``.
        sizes: ``[A, 2]``.
        start: ``[B, 2 * E * A, D]``, or ``[B * 2 * E * A, 1, D]``.

    Returns:
        Two tensors: variants of attention come first, then those of the MLP; each leaves the other be.
    """
    both = torch.einsum("epd,ap->pead", vectors, sizes).flatten(1, 2)
    nothing = torch.zeros_like(both[0])
    attn, mlp = torch.cat([both[0], nothing]).to(start), torch.cat([nothing, both[1]]).to(start)
    times = start[..., 0].numel() // len(attn)
    return attn.repeat(times, 1).view_as(start), mlp.repeat(times, 1).view_as(start)


def side_by_side(model: Model, length: int) -> bool:
    """Whether variants of a last token can stand side by side: attention takes any mask, and the cache holds all."""
    attention = model.nn._module.config.get_text_config()._attn_implementation
    return attention in ("eager", "sdpa") and cut_anywhere(model, length)


def blind_to_each_other(mask: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """What attention adds to its scores so that each variant of a last token sees the prefix and itself.

    Args:
        mask: ``[B, P + 1]``, prefix and last token.
        width: variants of each row.
        dtype: of the model.

    Returns:
        ``[B, 1, width, P + width]``.
    """
    prefix = mask[:, None, :-1].bool().expand(-1, width, -1)
    itself = torch.eye(width, dtype=torch.bool, device=mask.device).expand(len(mask), -1, -1)
    hidden = ~torch.cat([prefix, itself], -1)
    added = torch.zeros(hidden.shape, dtype=dtype, device=mask.device).masked_fill(hidden, torch.finfo(dtype).min)
    return added[:, None]
