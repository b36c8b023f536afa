"""Beginnings that rows of a batch share: computed once, and continued row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from emotrace.trace.batches import pad_left
from emotrace.trace.tokens import agreement

if TYPE_CHECKING:
    from emotrace.models.traced import Model

LEAST_SAVING = 0.1
"""Share of a batch's tokens below which a second, smaller pass is not worth its fixed cost."""
CACHED_BY_TOKEN = {"full_attention", "sliding_attention"}
LENGTH_DEPENDENT = ("longrope", "dynamic")


@dataclass(frozen=True)
class SplitBatch:
    """Rows cut at one depth d (0 where they share too little): distinct beginnings, and what comes after, left-padded.

    Attributes:
        head: int64 ``[U, d]``, the distinct beginnings; nothing is padded in them.
        pick: int64 ``[B]``, the beginning of each row.
        ids: int64 ``[B, S]``, what comes after.
        mask: int64 ``[B, d + S]`` of beginning and rest; padding lies between the two.
        tokens: tokens that are computed.
    """

    head: torch.Tensor
    pick: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    tokens: int

    @property
    def text(self) -> torch.Tensor:
        """Beginning and rest, int64 ``[B, d + S]``."""
        return torch.cat([self.head[self.pick], self.ids], 1)

    def inputs(self, device: torch.device) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """For a pass: beginnings (None without), each row's, ids, and arguments of the trace that reads ``ids``."""
        given: dict[str, Any] = {"attention_mask": self.mask.to(device), "use_cache": False}
        depth = self.head.shape[1]
        if not depth:
            return None, self.pick, self.ids.to(device), given
        positions = (self.mask.cumsum(-1) - 1)[:, depth:].clamp(min=0)
        given |= {"position_ids": positions.to(device), "use_cache": True}
        return self.head.to(device), self.pick.to(device), self.ids.to(device), given


def split(
    model: Model,
    sequences: Sequence[Sequence[int]],
    apart: Sequence[int] | int = 1,
    *,
    room: int = 0,
    share: bool = True,
) -> SplitBatch:
    """One batch, cut where the fewest tokens are computed.

    Args:
        model: whose pad token is used, and whose attention says whether rows can be cut.
        sequences: token ids of each row.
        apart: tokens at the end of each row that have to be computed with the row (those that are read or edited).
        room: tokens that will follow.
        share: False leaves every row whole.
    """
    ends = [apart] * len(sequences) if isinstance(apart, int) else apart
    deepest = min(len(ids) - end for ids, end in zip(sequences, ends, strict=True))
    longest = max(len(ids) for ids in sequences)
    depth = _depth(sequences, deepest, longest) if share and cut_anywhere(model, longest + room) else 0
    heads = [tuple(ids[:depth]) for ids in sequences]
    order = {head: n for n, head in enumerate(dict.fromkeys(heads))}
    rest = pad_left([ids[depth:] for ids in sequences], model.pad_token)
    head = torch.tensor([*order], dtype=torch.long).reshape(len(order), depth)
    mask = torch.cat([torch.ones(len(sequences), depth, dtype=torch.long), rest.mask], 1)
    tokens = head.numel() + int(rest.mask.sum())
    return SplitBatch(head, torch.tensor([order[h] for h in heads]), rest.ids, mask, tokens)


def _depth(sequences: Sequence[Sequence[int]], deepest: int, longest: int) -> int:
    """Where to cut: the depth at which distinct beginnings and padded rests hold the fewest tokens together."""
    ordered = sorted(list(ids) for ids in sequences)
    shared = sorted(agreement(*pair) for pair in pairwise(ordered))
    count = len(sequences)
    best, fewest = 0, (1 - LEAST_SAVING) * count * longest
    # rows part where two neighbours in sorted order do, so the best cut is at one of those depths or the last
    for depth in {*(min(d, deepest) for d in shared), deepest}:
        distinct = 1 + sum(length < depth for length in shared)
        tokens = distinct * depth + count * (longest - depth)
        if depth > 0 and tokens < fewest:
            best, fewest = depth, tokens
    return best


def cut_anywhere(model: Model, length: int) -> bool:
    """Whether a text of this length can be continued from a cache with padding behind it.

    Not where attention looks back a number of places, padding counted, nor where positions are encoded by the length of
    the whole text, nor where the cache holds something else than keys and values of each token.
    """
    config = model.nn._module.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(part.get("rope_type") for part in rope.values() if isinstance(part, dict))}
    window = getattr(config, "sliding_window", None)
    return (
        (window is None or length <= window)
        and not kinds.intersection(LENGTH_DEPENDENT)
        and CACHED_BY_TOKEN.issuperset(getattr(config, "layer_types", None) or ())
    )


def continued(model: Any, head: torch.Tensor | None, pick: torch.Tensor, given: dict[str, Any]) -> dict[str, Any]:
    """In a session: arguments of the pass that goes on from rows' beginnings (:meth:`SplitBatch.inputs`)."""
    cache = beginnings(model, head, pick)
    return given if cache is None else {**given, "past_key_values": cache}


def beginnings(model: Any, head: torch.Tensor | None, pick: torch.Tensor) -> Any:
    """In a session: the cache that rows go on from; None where they share nothing."""
    if head is None:
        return None
    with model.trace(head, attention_mask=torch.ones_like(head), use_cache=True, logits_to_keep=1):
        with torch.no_grad():
            cache = model.output.past_key_values
    return picked(cache, pick)


def picked(cache: Any, pick: torch.Tensor) -> Any:
    """A cache whose row i continues row ``pick[i]`` of ``cache``, which stays as it is."""
    other = twin(cache)
    for layer in other.layers:
        layer.batch_select_indices(pick.to(layer.keys.device))
    return other


def twin(cache: Any) -> Any:
    """A cache that can be filled further without changing ``cache``; the tensors there are so far are shared.

    transformers' dynamic caches replace their tensors when they grow, so nothing has to be copied.
    """
    other = object.__new__(type(cache))
    other.__dict__.update(cache.__dict__)
    other.layers = []
    for layer in cache.layers:
        copy = object.__new__(type(layer))
        copy.__dict__.update(layer.__dict__)
        other.layers.append(copy)
    return other
