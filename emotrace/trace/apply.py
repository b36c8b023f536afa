"""Compiled edits, applied inside a trace: the user's or ours; and the proof that they were."""

from collections.abc import Sequence
from typing import Any

import torch

from emotrace.errors import EditMissed, PlanError, shown
from emotrace.models.load import as_model
from emotrace.models.traced import Model
from emotrace.trace.compile import Operation, compile_rows
from emotrace.trace.plan import Plan
from emotrace.trace.sites import place, value
from emotrace.trace.tokens import check_mask, columns, selected


def apply(
    model: Any,
    plan: Plan | Sequence[Plan],
    *,
    step: int = 0,
    attention_mask: torch.Tensor | None = None,
    input_ids: torch.Tensor | None = None,
) -> list[int]:
    """Make the plan's edits; call it inside ``model.trace`` or, with ``step``, inside ``for step in tracer.iter[:n]``.

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
    wrapped = as_model(model)
    if type(step) is not int or step < 0:
        raise PlanError(f"step={shown(step)}: passes are counted from 0, the prompt's")
    if attention_mask is not None:
        check_mask(attention_mask)
    operations, rows = _compiled(wrapped, plan, attention_mask, input_ids)
    if step and operations and not any(selected(operation.tokens, step) for operation in operations):
        # without a cache this pass reads the prompt again, unedited, and no edit is there to notice
        one_token(step, value(place(wrapped, operations[0].site, operations[0].layer)).shape[1])
    return apply_operations(wrapped, operations, step, attention_mask, rows=rows)


def apply_operations(
    model: Model,
    operations: Sequence[Operation],
    step: int,
    attention_mask: torch.Tensor | None = None,
    *,
    rows: int | None = None,
) -> list[int]:
    """Compiled operations, made in this pass, on a batch of ``rows`` (None for any size); rows touched by each."""
    active = [selected(operation.tokens, step) for operation in operations]
    if step == 0 and attention_mask is not None:  # what does not fit raises before the model computes anything
        for operation in operations:
            _where(operation, step, attention_mask.shape[:2], attention_mask, rows)
    touched = []
    for operation, acts in zip(operations, active, strict=True):
        if not acts:
            touched.append(0)
            continue
        at = place(model, operation.site, operation.layer)
        values = value(at)
        where, holding = _where(operation, step, values.shape[:2], attention_mask, rows)
        if operation.site == "heads" and values.requires_grad:
            # attention's backward pass needs its output as it was; a copy takes the edit and goes on in its place
            values = values.clone()
            at[0].input = values
        values[where] = _edited(values[where], operation, step)
        touched.append(holding)
    return touched


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
        holding = range(len(passes)) if operation.rows is None else operation.rows
        for row in holding:
            declared = [step for step in range(passes[row]) if selected(operation.tokens, step)]
            missed = [step for step in declared if step >= len(touched) or touched[step][number] < len(holding)]
            if missed:
                raise EditMissed(
                    f"{operation} touched {len(declared) - len(missed)} of {len(declared)} passes of row {row}, not "
                    f"{missed}; the result is not that of this plan"
                )
            hits[row] += len(declared)
    return hits


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
    made_for = rows or operation.values_per_row
    if made_for not in (None, batch):
        raise PlanError(f"{operation}: made for {made_for} rows, the batch has {batch}: plans and input_ids go by row")
    if step > 0:
        one_token(step, width)
    if mask is not None and step == 0 and tuple(mask.shape) != (batch, width):
        raise PlanError(f"attention_mask is {tuple(mask.shape)}, the batch has {(batch, width)} rows and tokens")
    holding = range(batch) if operation.rows is None else operation.rows
    return columns(operation.tokens, step, (batch, width), mask if step == 0 else None, holding), len(holding)


def _edited(values: torch.Tensor, operation: Operation, step: int) -> torch.Tensor:
    add = operation.add_later if step else operation.add
    if operation.blank is not None:
        values = values.masked_fill(operation.blank.to(values.device), 0)
    if operation.scale is not None:
        values = values * operation.scale.to(values)
    return values if add is None else values + add.to(values)


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
