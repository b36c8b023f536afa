"""Edits made in one pass, inside a block: where a plan's operations act, and what they leave there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import torch

from emotrace.errors import PlanError
from emotrace.trace.sites import value
from emotrace.trace.tokens import columns, selected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emotrace.trace.sites import Place
    from emotrace.trace.tokens import Tokens


class Operation(TypedDict):
    """All edits of one site, layer and choice of tokens, dense over the site's width W: blank, then scale, then add.

    A plain dict, so that it can be shipped. Tensors are ``[W]`` for every row and token, else broadcast to
    ``[B, P, W]``; None where there is nothing to do.

    Attributes:
        site: where.
        layer: counted from 0.
        order: of the site within a layer.
        at: the nnsight module, and its side.
        tokens: a name or indices.
        blank: bool, coordinates whose value is dropped, even if it is not finite.
        scale: factors.
        add: what is added at the prompt.
        add_later: what is added at reply tokens fed back.
        rows: rows of the batch whose plan holds it; None for all.
    """

    site: str
    layer: int
    order: int
    at: Place
    tokens: Tokens
    blank: torch.Tensor | None
    scale: torch.Tensor | None
    add: torch.Tensor | None
    add_later: torch.Tensor | None
    rows: tuple[int, ...] | None


def described(operation: Operation) -> str:
    """An operation as messages name it."""
    return f"edit of {operation['site']} in layer {operation['layer']} at tokens={operation['tokens']!r}"


def edits_prompt(operation: Operation) -> bool:
    """Whether it changes anything in front of the last prompt token, or may: every row then needs its own pass."""
    values = (operation["blank"], operation["scale"], operation["add"], operation["add_later"])
    acts = any(value is not None for value in values)
    return acts and operation["tokens"] not in ("last", "reply", "generated")


def make_edits(
    operations: Sequence[Operation], step: int, mask: torch.Tensor | None, rows: int | None = None
) -> list[int]:
    """Make operations in this pass, on a batch of ``rows`` (None for any size); rows touched by each.

    Args:
        operations: compiled for the model that is traced.
        step: 0 for the prompt's pass, then the pass number while generating.
        mask: ``[B, T]`` of the prompt, on the CPU.
        rows: the batch size that the operations are for.
    """
    if step == 0 and mask is not None:  # what does not fit raises before the model computes anything
        for operation in operations:
            if selected(operation["tokens"], step):
                _where(operation, step, mask.shape[:2], mask, rows)
    touched = []
    for operation in operations:
        if not selected(operation["tokens"], step):
            touched.append(0)
            continue
        values = value(operation["at"])
        where, holding = _where(operation, step, values.shape[:2], mask, rows)
        if operation["site"] == "heads" and values.requires_grad:
            # attention's backward pass needs its output as it was; a copy takes the edit and goes on in its place
            values = values.clone()
            operation["at"][0].input = values
        values[where] = _edited(values[where], operation, step)
        touched.append(holding)
    return touched


def for_rows(compiled: Sequence[list[Operation]], pick: Sequence[int]) -> list[Operation]:
    """Operations of a batch whose row i has the plan ``compiled[pick[i]]``."""
    used = sorted({*pick})
    if len(used) == 1:
        return compiled[used[0]]
    slots: dict[Any, Any] = {}
    for key in used:
        turns: dict[Any, int] = {}
        for operation in compiled[key]:
            where = (operation["layer"], operation["order"])
            turns[where] = turns.get(where, -1) + 1
            by_tokens = slots.setdefault((*where, turns[where]), {})
            by_tokens.setdefault(operation["tokens"], {})[key] = operation
    return [_stacked(by_plan, pick) for slot in sorted(slots) for by_plan in slots[slot].values()]


def _stacked(by_plan: dict[int, Operation], pick: Sequence[int]) -> Operation:
    """Operations of several plans at one place as one; rows of plans that lack it are left as they are."""
    first: Any = next(iter(by_plan.values()))
    folded: Any = {**first, "rows": tuple(row for row, key in enumerate(pick) if key in by_plan)}
    for name, neutral in (("blank", 0.0), ("scale", 1.0), ("add", 0.0), ("add_later", 0.0)):
        parts: dict[int, torch.Tensor] = {key: o[name] for key, o in by_plan.items() if o[name] is not None}  # type: ignore[literal-required]
        if parts:
            shape = torch.broadcast_shapes(*(part.shape[-2:] for part in parts.values()))
            known = next(iter(parts.values()))
            blank = torch.full(shape, neutral, dtype=known.dtype, device=known.device)
            rows = [parts[key].reshape(parts[key].shape[-2:]).expand(shape) if key in parts else blank for key in pick]
            folded[name] = torch.stack(rows if len(shape) == 2 else [row[None] for row in rows])
    made: Operation = folded
    return made


def values_per_row(operation: Operation) -> int | None:
    """The batch size that an operation's tensors are for; None when they fit any."""
    tensors = (operation["blank"], operation["scale"], operation["add"], operation["add_later"])
    return max({t.shape[0] for t in tensors if t is not None and t.ndim == 3} - {1}, default=None)


def one_token(step: int, width: int) -> None:
    """Raise ``PlanError`` when a pass after the prompt's reads the whole text again."""
    if width != 1:
        raise PlanError(
            f"pass {step} reads {width} tokens: edits while generating need use_cache=True, one token a pass"
        )


def _where(
    operation: Operation, step: int, shape: Sequence[int], mask: torch.Tensor | None, rows: int | None
) -> tuple[Any, int]:
    """Index of the tokens that an operation acts on in this pass, and how many rows hold it."""
    batch, width = shape
    made_for = rows or values_per_row(operation)
    if made_for not in (None, batch):
        raise PlanError(
            f"{described(operation)}: made for {made_for} rows, the batch has {batch}: plans and input_ids go by row"
        )
    if step > 0:
        one_token(step, width)
    if mask is not None and step == 0 and tuple(mask.shape) != (batch, width):
        raise PlanError(f"attention_mask is {tuple(mask.shape)}, the batch has {(batch, width)} rows and tokens")
    holding = range(batch) if operation["rows"] is None else operation["rows"]
    return columns(operation["tokens"], step, (batch, width), mask if step == 0 else None, holding), len(holding)


def _edited(values: torch.Tensor, operation: Operation, step: int) -> torch.Tensor:
    held: Any = operation
    for name in ("blank", "scale", "add", "add_later"):
        if held[name] is not None and held[name].device != values.device:
            held[name] = held[name].to(values.device)  # once, not at every step
    blank, scale, add = operation["blank"], operation["scale"], operation["add_later"] if step else operation["add"]
    if blank is not None:
        values = values.masked_fill(blank, 0)
    if scale is not None:
        values = values * scale.to(values.dtype)
    return values if add is None else values + add.to(values.dtype)
