"""Compiled edits, applied inside a trace of the user's own; and the proof that they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from emotrace.errors import EditMissed, PlanError, shown
from emotrace.models.load import as_model
from emotrace.trace.compile import compile_rows
from emotrace.trace.passes import described, for_rows, make_edits, one_token
from emotrace.trace.plan import Plan
from emotrace.trace.sites import value
from emotrace.trace.tokens import check_mask, selected

if TYPE_CHECKING:
    from emotrace.models.traced import Model
    from emotrace.trace.passes import Operation


def apply(
    model: Any,
    plan: Plan | Sequence[Plan],
    *,
    step: int = 0,
    attention_mask: torch.Tensor | None = None,
    input_ids: torch.Tensor | None = None,
) -> list[int]:
    """Make the plan's edits; call it inside ``model.trace`` or, with ``step``, inside ``for step in tracer.iter[:n]``.

    On a hosted model the plan is compiled and checked here, before the block is sent; edits at a ``Span`` have to be
    located before the block (:meth:`emotrace.Plan.located`).

    In a batch of several invokes it acts on the rows of the invoke that it stands in. nnsight pads invokes on the left
    to the longest one; an ``attention_mask`` given here must be as wide. Inside ``model.generate`` leave out
    ``torch.no_grad()``: generating has its own, and two that overlap leave gradients off afterwards.

    Args:
        model: the model being traced, an :class:`emotrace.Model` or your nnsight model.
        plan: edits, or one plan for each row of the batch; they run in the order of execution, so a read of an
            earlier site must come first.
        step: 0 for the prompt's pass, then the pass number while generating.
        attention_mask: ``[B, T]`` of the prompt, padded on either side; needed for padding on the right and for token
            indices counted from the left. Without it, padding is taken to be on the left, and indices from the right
            must stay clear of it.
        input_ids: ``[B, T]`` of the prompt; needed for edits at a ``Span``.

    Returns:
        Rows touched in this pass, for each operation in order of execution (an operation is all edits of one site,
        layer and choice of tokens). :func:`check_contact` compares them with what was declared.

    Raises:
        PlanError: the plan does not fit the model or the batch, before anything runs.
        CircuitError: it was made from a circuit of another model.
    """
    check_pass(step, attention_mask)
    operations, rows = _compiled(as_model(model), plan, attention_mask, input_ids)
    return edit_pass(operations, step, attention_mask, rows)


def check_pass(step: int, mask: torch.Tensor | None) -> None:
    """Raise ``PlanError`` when what was said of a pass cannot be."""
    if type(step) is not int or step < 0:
        raise PlanError(f"step={step!r}: passes are counted from 0, the prompt's")
    if mask is not None:
        check_mask(mask)


def edit_pass(operations: Sequence[Operation], step: int, mask: torch.Tensor | None, rows: int | None) -> list[int]:
    """A pass in a block of the user's own, where a cache may be missing."""
    if step and operations and not any(selected(operation["tokens"], step) for operation in operations):
        # without a cache this pass reads the prompt again, unedited, and no edit is there to notice
        one_token(step, value(operations[0]["at"]).shape[1])
    return make_edits(operations, step, mask, rows)


def apply_shipped(model, plan, *, step=0, attention_mask=None, input_ids=None):  # type: ignore[no-untyped-def]
    """:func:`apply` on a server, where a plan has become its operations (``Plan.__shipped__``)."""
    check_pass(step, attention_mask)
    several = bool(plan) and isinstance(plan[0], list)
    operations = for_rows(plan, range(len(plan))) if several else plan
    return edit_pass(operations, step, attention_mask, len(plan) if several else None)


apply.__dict__["__shipped__"] = apply_shipped


def check_contact(
    model: Any,
    plan: Plan | Sequence[Plan],
    touched: Sequence[Sequence[int]],
    passes: Sequence[int],
    *,
    attention_mask: torch.Tensor | None = None,
    input_ids: torch.Tensor | None = None,
) -> list[int]:
    """Compare what a loop of your own touched with what the plan declares, up to each row's end of text.

    Args:
        model: as given to :func:`apply`.
        plan: as given to :func:`apply`.
        touched: what ``apply`` returned in each pass, in order.
        passes: per row, how many passes made its tokens: as many as it has new tokens, its end of text included.
        attention_mask: as given to :func:`apply`.
        input_ids: as given to :func:`apply`.

    Returns:
        Hits per row: (operation, step) pairs, all that were declared.

    Raises:
        EditMissed: a declared (row, step) pair was not touched; names the edit, the row and the steps.
    """
    operations, _ = _compiled(as_model(model), plan, attention_mask, input_ids)
    return contact(operations, touched, passes)


def contact(operations: Sequence[Operation], touched: Sequence[Sequence[int]], passes: Sequence[int]) -> list[int]:
    """:func:`check_contact` for operations that are compiled."""
    hits = [0] * len(passes)
    for number, operation in enumerate(operations):
        holding = range(len(passes)) if operation["rows"] is None else operation["rows"]
        for row in holding:
            declared = [step for step in range(passes[row]) if selected(operation["tokens"], step)]
            missed = [step for step in declared if step >= len(touched) or touched[step][number] < len(holding)]
            if missed:
                raise EditMissed(
                    f"{described(operation)} touched {len(declared) - len(missed)} of {len(declared)} passes of row "
                    f"{row}, not {missed}; the result is not that of this plan"
                )
            hits[row] += len(declared)
    return hits


def _compiled(
    model: Model, plan: Plan | Sequence[Plan], mask: torch.Tensor | None, input_ids: torch.Tensor | None
) -> tuple[list[Operation], int | None]:
    """Operations, and the batch size that they are for (None for any).

    The last ones are kept, since a loop over steps asks for the same each time.
    """
    plans = [plan] if isinstance(plan, Plan) else list(plan) if isinstance(plan, list | tuple) else []
    if not plans or not all(isinstance(p, Plan) for p in plans):
        raise PlanError(f"apply takes a Plan, or a list with one for each row, not {shown(plan)}")
    if any(p.spans for p in plans):
        plans = _located(model, plan, plans, mask, input_ids)
        return compile_rows(plans, model), len(plans)
    held = model.compiled
    if held is None or len(held[0]) != len(plans) or any(a is not b for a, b in zip(held[0], plans, strict=True)):
        model.compiled = held = (plans, compile_rows(plans, model))
    return held[1], None if isinstance(plan, Plan) else len(plans)


def _located(
    model: Model, plan: Any, plans: list[Plan], mask: torch.Tensor | None, input_ids: torch.Tensor | None
) -> list[Plan]:
    """A plan for each row, its spans found in the row's prompt."""
    for each in plans:
        each.check(model)
    if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2:
        raise PlanError("an edit at a Span needs input_ids=, the prompt's token ids [B, T], to find its tokens")
    if mask is not None and mask.shape != input_ids.shape:
        raise PlanError(f"input_ids are {tuple(input_ids.shape)}, attention_mask is {tuple(mask.shape)}")
    kept = torch.ones_like(input_ids) if mask is None else mask
    prompts = [ids[row.bool().cpu()].tolist() for ids, row in zip(input_ids.cpu(), kept, strict=True)]
    plans = plans * len(prompts) if isinstance(plan, Plan) else plans
    sizes = {len(plans)} | {each.rows for each in plans if each.rows is not None}
    if sizes != {len(prompts)}:
        raise PlanError(
            f"plans for a batch of {sorted(sizes)} rows, input_ids of {len(prompts)}: give one for each row"
        )
    return [each.located(model, ids, row) for row, (each, ids) in enumerate(zip(plans, prompts, strict=True))]
