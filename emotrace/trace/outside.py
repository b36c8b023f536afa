"""The final reading with everything outside a set of components ablated: what circuits are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import nnsight
import torch

from emotrace.errors import DataError
from emotrace.ledger import Ledger, Record
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS, pad_left
from emotrace.trace.kept import Variant, chosen, masks, widened
from emotrace.trace.prefixes import continued, cut_anywhere, split, twin
from emotrace.trace.requests import Batches, mapped
from emotrace.trace.sites import place, value
from emotrace.trace.tokens import agreement

if TYPE_CHECKING:
    from emotrace.models.traced import Model

ABLATIONS = ("zero", "mean", "resample")
PLACES = ("all", "last")
VARIANTS_AT_ONCE = 32
"""Variants of one request, at most."""


def kept_readings(
    model: Model,
    groups: Sequence[Sequence[Sequence[int]]],
    variants: Sequence[Variant],
    ablation: str,
    reference: torch.Tensor,
    *,
    tokens: str = "all",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
    name: str = "quality",
) -> torch.Tensor:
    """Projections of the last token's final state (after the final norm) under ablations of heads and neurons.

    An ablated component is replaced at every token that is not padding, or at the last prompt token alone (what the
    tokens before it computed is then left, and computed once): by zero; by its mean over the group's prompts
    (``mean``); or by its value in another prompt of the group (``resample``), the donor rotating over groups. Prompts
    of a group differ in their instruction alone; tokens correspond by the beginning and the end that two prompts
    share, and in between by place. What the projections' biases add is not a component and stays.

    Args:
        model: any model.
        groups: G groups of E prompts, as token ids: one for each emotion.
        variants: V of them.
        ablation: ``zero``, ``mean`` or ``resample``.
        reference: ``[R, D]`` directions.
        tokens: ``all`` or ``last``.
        batch_tokens: token budget of a batch; a batch holds whole groups, and its activations at all layers.
        ledger: keeps finished requests.
        name: the ledger's name for this work.

    Returns:
        float64 ``[V, G, E, R]``.

    Raises:
        DataError: an unknown ablation or choice of tokens, no variants, groups of different size, or ``tokens="last"``
            with a prompt of one token.
    """
    if ablation not in ABLATIONS or tokens not in PLACES:
        raise DataError(f"choose ablation from {ABLATIONS} and tokens from {PLACES}, got {ablation!r} and {tokens!r}")
    if not groups or not variants or len({len(prompts) for prompts in groups}) > 1:
        raise DataError("readings need variants, and groups with one prompt for each emotion")
    emotions = len(groups[0])
    if ablation != "zero" and emotions < 2:
        raise DataError(f"{ablation} ablation takes values from the group's other prompts, and there is only one")
    if tokens == "last" and min(len(ids) for prompts in groups for ids in prompts) < 2:
        raise DataError("a prompt of one token has nothing before its last token; give prompts of two tokens or more")
    at_once = VARIANTS_AT_ONCE
    if model.request_tokens and tokens == "all":  # every variant reads the whole batch again
        at_once = max(1, min(at_once, model.request_tokens // batch_tokens))
    passes = at_once if tokens == "all" else 1
    blocks = [range(at, min(at + at_once, len(variants))) for at in range(0, len(variants), at_once)]
    lengths = [passes * emotions * max(len(ids) for ids in prompts) for prompts in groups]
    found = torch.zeros(len(variants), len(groups), emotions, len(reference), dtype=torch.float64)
    for block in blocks:
        part_of = [variants[at] for at in block]

        def work(batches: Batches, some: Sequence[Variant] = part_of) -> list[Record]:
            return _readings(model, groups, some, batches, ablation, reference, tokens)

        part = f"{name}_{ablation}_{tokens}_{block.start}"
        for record in mapped(model, part, lengths, passes * batch_tokens, work, ledger):
            values = torch.tensor(record["readings"], dtype=torch.float64)
            found[block.start : block.stop, record["group"]] = values
    return found


def _readings(
    model: Model,
    groups: Sequence[Sequence[Sequence[int]]],
    variants: Sequence[Variant],
    batches: Batches,
    ablation: str,
    reference: torch.Tensor,
    tokens: str,
) -> list[Record]:
    layers, emotions = model.sizes.layers, len(groups[0])
    places = [place(model, site, layer) for layer in range(layers) for site in model.sites]
    longest = max(len(ids) for rows in batches for row in rows for ids in groups[row])
    behind = tokens == "last" and cut_anywhere(model, longest)
    inputs = []
    for rows in batches:
        prompts = [ids for row in rows for ids in groups[row]]
        donors = [] if ablation == "zero" else _donors([groups[row] for row in rows], rows, ablation, tokens)
        kept = [chosen(model, variant, rows, emotions) for variant in variants]
        before, ids, given, width = _passes(model, prompts, behind, len(variants) + bool(donors))
        inputs.append((before, ids, given, width if tokens == "all" else 1, donors, kept))
    counts = [model.sizes.shape(site)[0] for site in model.sites]
    final_norm = model.final_norm
    with model.lock, model.session():
        found = []
        for before, ids, given, width, donors, kept in inputs:
            cache = None
            if before is not None:
                head, pick, earlier, options = before
                options = continued(model, head, pick, options)
                with model.trace(earlier, **{**options, "use_cache": True}, logits_to_keep=1):
                    with torch.no_grad():
                        cache = model.output.past_key_values
            sources = []
            if donors:
                with model.trace(ids, **going_on(given, cache), logits_to_keep=1):
                    with torch.no_grad():
                        for where in places:
                            sources.append(donated(value(where)[:, -width:], donors))
            readings = []
            for which in kept:
                mask = masks(which, layers, counts)
                with model.trace(ids, **going_on(given, cache), logits_to_keep=1):
                    with torch.no_grad():
                        for at, where in enumerate(places):
                            values = value(where)
                            part = values[:, -width:]
                            other = sources[at] if sources else torch.zeros_like(part)
                            values[:, -width:] = torch.where(widened(mask[at], part), part, other)
                        state = final_norm.output[:, -1].double()
                        readings.append((state @ reference.to(state).T).cpu())
            found.append(torch.stack(readings))
        saved = nnsight.save(found)
    records = []
    for rows, readings in zip(batches, saved, strict=True):
        by_group = readings.unflatten(1, (len(rows), emotions))
        records += [{"group": row, "readings": by_group[:, at].tolist()} for at, row in enumerate(rows)]
    return records


def _passes(
    model: Model, prompts: Sequence[Sequence[int]], behind: bool, passes: int
) -> tuple[Any, torch.Tensor, dict[str, Any], int]:
    """What comes before the last token where that is computed alone (else None); ids, arguments, width of a trace."""
    whole = pad_left(prompts, model.pad_token)
    width = whole.ids.shape[1]
    if not behind:
        model.count(quality_tokens=int(whole.mask.sum()) * passes)
        given = {"attention_mask": whole.mask.to(model.device), "use_cache": False}
        return None, whole.ids.to(model.device), given, width
    batch = split(model, [ids[:-1] for ids in prompts], room=1)
    mask = torch.cat([batch.mask, torch.ones(len(prompts), 1, dtype=torch.long)], 1).to(model.device)
    given = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1)[:, -1:], "use_cache": True}
    model.count(quality_tokens=batch.tokens + len(prompts) * passes)
    return batch.inputs(model.device), whole.ids[:, -1:].to(model.device), given, width


def going_on(given: dict[str, Any], cache: Any) -> dict[str, Any]:
    """Arguments of a trace that goes on from ``cache`` and leaves it as it is; without one, ``given``."""
    return given if cache is None else {**given, "past_key_values": twin(cache)}


def donated(values: torch.Tensor, donors: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Mean over donors of ``values [B, T, W]`` at each donor's (rows ``[B]``, columns ``[B, T]``), copied."""
    total = torch.zeros_like(values)
    for rows, columns in donors:
        total = total + values[rows.to(values.device)[:, None], columns.to(values.device)]
    return total / len(donors)


def _donors(
    groups: Sequence[Sequence[Sequence[int]]], rows: Sequence[int], ablation: str, tokens: str
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Where ablated values come from: rows ``[B]`` and columns ``[B, T]`` of the batch, one pair for each donor."""
    emotions = len(groups[0])
    width = 1 if tokens == "last" else max(len(ids) for prompts in groups for ids in prompts)
    shifts: list[Any] = [[1 + row % (emotions - 1) for row in rows]]  # resample: never the prompt itself
    if ablation == "mean":
        shifts = [[shift] * len(rows) for shift in range(emotions)]
    donors = []
    for shift in shifts:
        sources, columns = [], torch.arange(width).repeat(len(groups) * emotions, 1)
        for at, prompts in enumerate(groups):
            for e, ids in enumerate(prompts):
                other = (e + shift[at]) % emotions
                sources.append(at * emotions + other)
                if tokens == "all":
                    shift_right = width - len(prompts[other])
                    columns[at * emotions + e, width - len(ids) :] = shift_right + aligned(ids, prompts[other])
        donors.append((torch.tensor(sources), columns))
    return donors


def aligned(ids: Sequence[int], other: Sequence[int]) -> torch.Tensor:
    """For each token of ``ids`` the place of its counterpart in ``other``, int64 ``[len(ids)]``.

    >>> aligned([1, 5, 6, 9, 9], [1, 7, 9, 9]).tolist()
    [0, 1, 1, 2, 3]
    """
    before = agreement(ids, other)
    after = min(agreement(ids[::-1], other[::-1]), min(len(ids), len(other)) - before)
    between = torch.arange(len(ids) - before - after)
    middle = (before + between).clamp(max=max(len(other) - after - 1, 0))
    return torch.cat([torch.arange(before), middle, torch.arange(len(other) - after, len(other))])
