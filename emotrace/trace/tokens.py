"""Where an edit acts: names, indices and spans of a prompt, and the columns they select in a pass."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch

from emotrace.errors import PlanError, shown

if TYPE_CHECKING:
    from emotrace.models.traced import Model

NAMES = ("last", "prompt", "generated", "reply", "all")
AT_PROMPT = ("last", "prompt", "reply", "all")
AT_REPLY = ("generated", "reply", "all")


@dataclass(frozen=True)
class Span:
    """The tokens that hold a piece of the prompt's text, special tokens and template included.

    Attributes:
        text: a substring of the rendered prompt.
        occurrence: which one, counted from 0; None demands that there be only one.
    """

    text: str
    occurrence: int | None = None


Tokens = str | tuple[int, ...] | Span


def check_tokens(tokens: Any) -> None:
    """Raise ``PlanError`` unless ``tokens`` is a name, a tuple of indices or a span."""
    if isinstance(tokens, Span):
        if not isinstance(tokens.text, str) or not tokens.text:
            raise PlanError("a Span needs the text to look for")
        if tokens.occurrence is not None and type(tokens.occurrence) is not int:
            raise PlanError(f"the occurrence of a Span is a whole number from 0, not {shown(tokens.occurrence)}")
        return
    indices = isinstance(tokens, tuple) and len(tokens) > 0 and all(type(i) is int for i in tokens)
    if not indices and not (isinstance(tokens, str) and tokens in NAMES):
        raise PlanError(f"unknown tokens={shown(tokens)}; choose {', '.join(NAMES)}, a tuple of indices or a Span")


def locate(model: Model, prompt: Sequence[int], span: Span) -> tuple[int, ...]:
    """Indices, counted from the right (-1 is the last token), of the prompt's tokens that hold a span.

    A token is taken when any character of it lies in the span.

    Raises:
        PlanError: the text is not there, or stands there several times and no occurrence was chosen.
    """

    def characters(count: int) -> str:
        text: str = model.tokenizer.decode(list(prompt[:count]), clean_up_tokenization_spaces=False)
        return text

    text = characters(len(prompt))
    starts = [at for at in range(len(text)) if text.startswith(span.text, at)]
    if not starts:
        raise PlanError(f"{shown(span.text)} is not in the prompt {shown(text, 200)}")
    if span.occurrence is None and len(starts) > 1:
        raise PlanError(
            f"{shown(span.text)} stands {len(starts)} times in the prompt {shown(text, 150)}; choose occurrence="
        )
    if not 0 <= (span.occurrence or 0) < len(starts):
        raise PlanError(f"occurrence {span.occurrence} of {shown(span.text)}: the prompt has {len(starts)}, from 0")
    start = starts[span.occurrence or 0]
    # Characters that the first n tokens spell out. The bytes of a character count once all of them are there; half of
    # one can make a decoder give up on the bytes in front of it too, which is why what was known stays known.
    shared = [agreement(characters(n), text) for n in range(len(prompt) + 1)]
    spelt = list(accumulate(shared, max))
    first = bisect_left(spelt, start)  # the fewest tokens that spell out all in front of the span
    first -= spelt[first] > start  # the last of them holds the span's beginning too
    end = bisect_left(spelt, start + len(span.text))
    return tuple(range(first - len(prompt), end - len(prompt)))


def agreement(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items two sequences (or characters two texts) begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def check_mask(mask: Any) -> None:
    """Raise ``PlanError`` unless ``mask`` is ``[B, T]`` with each row's tokens next to each other."""
    if not isinstance(mask, torch.Tensor):
        raise PlanError(f"attention_mask is a {type(mask).__name__}; give the tensor [B, T] that the model gets")
    if mask.ndim != 2:
        raise PlanError(f"attention_mask is {tuple(mask.shape)}; edits need one of rows and tokens, [B, T]")
    edges = torch.nn.functional.pad(mask.cpu().bool().long(), (1, 1)).diff(dim=1).abs().sum(-1)
    if bool((edges > 2).any()):
        raise PlanError("attention_mask has a hole in a row: padding goes before or after the tokens, not between them")


def selected(tokens: Tokens, step: int) -> bool:
    """Whether ``tokens`` selects anything in pass ``step`` (0 is the prompt's)."""
    return tokens in AT_REPLY if step else not isinstance(tokens, str) or tokens in AT_PROMPT


def columns(
    tokens: Tokens, step: int, shape: tuple[int, int], mask: torch.Tensor | None, holding: Sequence[int]
) -> tuple[Any, Any]:
    """Index into ``[B, T, ...]`` of the tokens selected in a pass that ``selected`` allows.

    Args:
        tokens: a name or indices (spans are located before).
        step: the pass.
        shape: B and T of the pass.
        mask: ``[B, T]`` of the prompt; without it, nothing may be padded but on the left.
        holding: rows whose indices must lie inside their prompt.

    Returns:
        rows and columns: slices, or int64 ``[B, 1]`` and ``[B, P]``.

    Raises:
        PlanError: an index outside a prompt, or counted from the left without a mask.
    """
    everything = slice(None)
    if step > 0:
        return everything, slice(-1, None)
    if tokens in ("prompt", "all"):
        return everything, everything
    if not isinstance(tokens, str | tuple):
        raise PlanError(f"{tokens} has not been located in the prompt")
    wanted = (-1,) if isinstance(tokens, str) else tokens
    if mask is None:
        if isinstance(tokens, str):
            return everything, slice(-1, None)
        if max(wanted) >= 0:
            raise PlanError("token indices counted from the left need attention_mask=, to skip the padding")
        lengths = torch.full((shape[0],), shape[1])
        ends = lengths
    else:
        mask = mask.cpu().bool()
        if isinstance(tokens, str) and bool(mask[:, -1].all()):
            return everything, slice(-1, None)
        lengths = mask.sum(-1)
        ends = shape[1] - mask.flip(-1).long().argmax(-1)
    indices = torch.tensor(wanted)
    from_end = torch.where(indices < 0, indices, indices - lengths[:, None])
    outside = ((from_end >= 0) | (from_end < -lengths[:, None])).any(-1)
    short = [row for row in holding if outside[row]]
    if short:
        length = int(lengths[short[0]])
        raise PlanError(f"token indices {tokens} lie outside the prompt of {length} tokens in row {short[0]}")
    from_end[outside] = -1  # rows that do not hold the edit: nothing is scaled and nothing added there
    repeated = [row for row in holding if len(set(from_end[row].tolist())) < len(wanted)]
    if repeated:
        raise PlanError(f"token indices {tokens} name a token twice in row {repeated[0]}")
    return torch.arange(shape[0])[:, None], ends[:, None] + from_end
