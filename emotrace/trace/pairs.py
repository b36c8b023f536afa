"""Pairs of prompts, both run: what the base computes again, and what its partner's components did at the last token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from emotrace.errors import DataError
from emotrace.trace.batches import pad_left
from emotrace.trace.prefixes import continued, split, twin
from emotrace.trace.sites import place
from emotrace.trace.suffix import blind_to_each_other, side_by_side

if TYPE_CHECKING:
    from emotrace.models.traced import Model
    from emotrace.trace.attribute import Metric

VARIANTS = 128
"""Variants of one prompt's last token that are recomputed together."""

Job = tuple[int, str, tuple[int, ...]]
"""Layer, site, and components of it that are put in, each in a variant of its own."""


@dataclass(frozen=True)
class Pair:
    """One prompt and its partner.

    Attributes:
        owner: which emotion it belongs to.
        base: token ids of the prompt that is run again.
        partner: token ids of the prompt whose activations are put in; empty where difference vectors are.
    """

    owner: int
    base: tuple[int, ...]
    partner: tuple[int, ...] = ()


def jobs_of(components: Mapping[str, Mapping[int, Sequence[int]]], variants: int = VARIANTS) -> list[Job]:
    """Components by site and layer as jobs of at most ``variants``."""
    return [
        (layer, site, tuple(indices[at : at + variants]))
        for site, layers in components.items()
        for layer, indices in sorted(layers.items())
        for at in range(0, len(indices), variants)
    ]


def both_ends(
    model: Any,
    each: dict[str, Any],
    parts: list[dict[str, Any]],
    blocks: list[Any],
    final_norm: Any,
    reference: torch.Tensor | None,
    metric: Metric | None,
    vectors: dict[str, torch.Tensor] | None,
) -> dict[str, Any]:
    """In a session: the base's prefix cache, what enters each block at its last token, its reading, and deltas.

    Returns:
        ``cache``; ``starts``, ``[B, 1, D]`` per layer; ``unmoved`` float64 ``[B, 1]``; ``deltas``, per layer and site
        float64 ``[B, W]`` on the CPU: partner minus base, or the owner's vectors.
    """
    given = continued(model, each["head"], each["pick"], each["given"])
    with model.trace(each["ids"], **{**given, "use_cache": True}, logits_to_keep=1):
        with torch.no_grad():
            cache = model.output.past_key_values
    with model.trace(each["tokens"], **each["last"], past_key_values=twin(cache), use_cache=True, logits_to_keep=1):
        with torch.no_grad():
            starts = []
            here = []
            for part, block in zip(parts, blocks, strict=True):
                starts.append(block.input.clone())
                here.append({site: at.input[:, -1].double().cpu() for site, at in part.items()})
            seen = final_norm.output if metric is None else model.output.logits
            unmoved = rated(seen, each["owners"], reference, metric)
    deltas = []
    if vectors is not None:
        for layer, part in enumerate(parts):
            deltas.append({site: vectors[site][each["owners"], layer] for site in part})
    else:
        with model.trace(each["partner"], attention_mask=each["partner_mask"], use_cache=False, logits_to_keep=1):
            with torch.no_grad():
                there = []
                for part in parts:
                    there.append({site: at.input[:, -1].double().cpu() for site, at in part.items()})
        for after, before in zip(there, here, strict=True):
            deltas.append({site: after[site] - before[site] for site in before})
    return {"cache": cache, "starts": starts, "unmoved": unmoved, "deltas": deltas}


def alone(delta: torch.Tensor, chosen: Sequence[int], width: int) -> torch.Tensor:
    """``delta [B, W]``, component by component: ``[B, V, W]``, each of ``chosen`` alone in its variant."""
    parts = delta.unflatten(-1, (-1, width))
    made = torch.zeros(len(delta), len(chosen), *parts.shape[1:], dtype=delta.dtype)
    made[:, torch.arange(len(chosen)), list(chosen)] = parts[:, list(chosen)]
    return made.flatten(2)


def moved_by(values: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """``values`` plus ``delta`` (float64), summed in float64: all the way to a partner's value is that value."""
    return (values.double() + delta.reshape(values.shape).to(values.device)).to(values.dtype)


def side(
    each: dict[str, Any], start: torch.Tensor, width: int, abreast: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Last tokens, arguments of their pass and what enters the block, for ``width`` variants of every prompt.

    Side by side at one position, each blind to the others; or as rows of a batch, ``[B * width, 1]``.
    """
    rows, across = (1, width) if abreast else (width, 1)
    token = each["tokens"].repeat_interleave(rows, 0).expand(-1, across)
    seen = each["last"]["attention_mask"].repeat_interleave(rows, 0)
    where = {"position_ids": each["last"]["position_ids"].repeat_interleave(rows, 0).expand(-1, across)}
    where["attention_mask"] = blind_to_each_other(seen, across, start.dtype) if abreast else seen
    return token, where, start.repeat_interleave(rows, 0).expand(-1, across, -1)


def spread_cache(cache: Any, width: int, abreast: bool) -> Any:
    """The prefix's cache for ``width`` variants of every prompt; ``cache`` itself stays as it is."""
    wide = twin(cache)
    if not abreast:
        wide.batch_repeat_interleave(width)
    return wide


def rated(
    seen: torch.Tensor, owners: torch.Tensor, reference: torch.Tensor | None, metric: Metric | None
) -> torch.Tensor:
    """The reading of every variant of B prompts, float64 ``[B, V]`` on the CPU.

    Args:
        seen: states after the final norm, or logits: ``[B, V, X]`` or ``[B * V, 1, X]``.
        owners: int64 ``[B]``, lines of ``reference``.
        reference: ``[E, D]``.
        metric: of logits ``[B * V, X]``, or of one row's to one number.
    """
    variants = seen.reshape(len(owners), -1, seen.shape[-1])
    if metric is None:
        along: Any = reference
        return torch.einsum("bvd,bd->bv", variants.double(), along[owners].to(variants.device, torch.float64)).cpu()
    rows = variants.flatten(0, 1)
    values = metric(rows)
    if isinstance(values, torch.Tensor) and values.ndim == 0:
        values = torch.stack([metric(row[None]) for row in rows])
    if not isinstance(values, torch.Tensor) or tuple(values.shape) != (len(rows),):
        kind = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise DataError(f"the metric must give one number, or one for each row {(len(rows),)}, not {kind}")
    return values.double().reshape(variants.shape[:2]).cpu()


def pair_inputs(model: Model, batches: Sequence[Sequence[Pair]], emotions: int) -> tuple[list[dict[str, Any]], bool]:
    """Tensors of every batch; and whether variants stand side by side."""
    longest = max(len(pair.base) for pairs in batches for pair in pairs)
    if min(len(pair.base) for pairs in batches for pair in pairs) < 2:
        raise DataError("a prompt of one token has no prefix to share; give prompts of two tokens or more")
    inputs = []
    for pairs in batches:
        batch = split(model, [pair.base[:-1] for pair in pairs], room=1)
        head, pick, ids, given = batch.inputs(model.device)
        mask = torch.cat([batch.mask, torch.ones(len(pairs), 1, dtype=torch.long)], 1).to(model.device)
        partner = pad_left([pair.partner or pair.base[-1:] for pair in pairs], model.pad_token)
        owners = torch.tensor([pair.owner for pair in pairs])
        each: dict[str, Any] = {"head": head, "pick": pick, "ids": ids, "given": given, "owners": owners}
        each["member"] = torch.nn.functional.one_hot(owners, emotions).double().T
        each["last"] = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1)[:, -1:]}
        each["tokens"] = torch.tensor([[pair.base[-1]] for pair in pairs], device=model.device)
        each["partner"], each["partner_mask"] = partner.ids.to(model.device), partner.mask.to(model.device)
        each["count"] = batch.tokens + len(pairs) + sum(len(pair.partner) for pair in pairs)
        inputs.append(each)
    return inputs, side_by_side(model, longest)


def input_modules(model: Model) -> list[dict[str, Any]]:
    """The modules whose inputs are the component sites of every layer, in order of execution."""
    return [{site: place(model, site, layer)[0] for site in model.sites} for layer in range(model.sizes.layers)]
