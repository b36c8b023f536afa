"""Compiled edits, applied inside a trace: the user's or ours; and the proof that they were."""

from collections.abc import Sequence
from typing import Any

import torch

from emotrace.errors import EditMissed, PlanError
from emotrace.models.load import as_model
from emotrace.models.traced import Model
from emotrace.trace.compile import Operation, compile_rows
from emotrace.trace.plan import Plan
from emotrace.trace.sites import place, value
from emotrace.trace.tokens import columns, selected


def apply(
    model: Any,
    plan: Plan | Sequence[Plan],
    *,
    step: int = 0,
    attention_mask: torch.Tensor | None = None,
    input_ids: torch.Tensor | None = None,
) -> list[int]:
    """Make the plan's edits; call it inside ``model.trace`` or, with ``step``, inside ``for step in tracer.iter[:n]``.

    In a batch of several invokes it acts on the rows of the invoke that it stands in.

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
    operations = _compiled(wrapped, plan, attention_mask, input_ids)
    rows = None if isinstance(plan, Plan) else len(plan)
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
    return contact(_compiled(as_model(model), plan, attention_mask, input_ids), touched, passes)


def contact(operations: Sequence[Operation], touched: Sequence[Sequence[int]], passes: Sequence[int]) -> list[int]:
    """:func:`check_contact` for operations that are compiled."""
    hits = [0] * len(passes)
    for number, operation in enumerate(operations):
        for row in range(len(passes)) if operation.rows is None else operation.rows:
            declared = [step for step in range(passes[row]) if selected(operation.tokens, step)]
            missed = [step for step in declared if step >= len(touched) or not touched[step][number]]
            if missed:
                raise EditMissed(
                    f"{operation} touched {len(declared) - len(missed)} of {len(declared)} passes of row {row}, not "
                    f"{missed}; the result is not that of this plan"
                )
            hits[row] += len(declared)
    return hits


def _where(
    operation: Operation, step: int, shape: Sequence[int], mask: torch.Tensor | None, rows: int | None
) -> tuple[Any, int]:
    """Index of the tokens that an operation acts on in this pass, and how many rows hold it."""
    batch, width = shape
    made_for = rows or operation.values_per_row
    if made_for not in (None, batch):
        raise PlanError(f"{operation}: made for {made_for} rows, the batch has {batch}: give a plan for each row")
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
) -> list[Operation]:
    """Operations of this batch; the last ones are kept, since a loop over steps asks for the same each time."""
    plans = [plan] if isinstance(plan, Plan) else list(plan) if isinstance(plan, list | tuple) else []
    if not plans or not all(isinstance(p, Plan) for p in plans):
        raise PlanError(f"apply takes a Plan, or a list with one for each row, not {plan!r:.60}")
    if any(p.spans for p in plans):
        if input_ids is None:
            raise PlanError("an edit at a Span needs input_ids=, the prompt's token ids, to find its tokens")
        kept = torch.ones_like(input_ids) if mask is None else mask
        prompts = [ids[row.bool().cpu()].tolist() for ids, row in zip(input_ids.cpu(), kept, strict=True)]
        plans = plans * len(prompts) if len(plans) == 1 else plans
        plans = [p.located(model, ids) for p, ids in zip(plans, prompts, strict=True)]
        return compile_rows(plans, model)
    held = model.compiled
    if held is None or len(held[0]) != len(plans) or any(a is not b for a, b in zip(held[0], plans, strict=True)):
        model.compiled = held = (plans, compile_rows(plans, model))
    return held[1]
