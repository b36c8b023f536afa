"""Compiled edits, applied inside a trace: the user's or ours."""

from collections.abc import Sequence
from typing import Any

import torch

from emotrace.errors import PlanError
from emotrace.models.traced import Model
from emotrace.trace.plan import Operation, Plan, compile_plan, compile_rows


def apply(
    model: Model, plan: Plan | Sequence[Plan], *, step: int = 0, attention_mask: torch.Tensor | None = None
) -> int:
    """Make the plan's edits; call it inside ``model.trace`` or, with ``step``, inside ``for step in tracer.iter[:n]``.

    Args:
        model: the model being traced.
        plan: edits, or one plan for each row of the batch; they run in the order of execution, so a read of an
            earlier site must come first.
        step: 0 for the prompt's pass, then the pass number while generating.
        attention_mask: ``[B, T]`` of a left-padded batch; needed for token indices counted from the left. Without it,
            indices from the right are taken as they are: no row may be padded as far as that.

    Returns:
        How many sites were touched in this pass (an edit of a site that the tokens do not select counts nothing).

    Raises:
        PlanError: the plan does not fit the model, before anything runs.
        CircuitError: it was made from a circuit of another model.
    """
    plans = [plan] if isinstance(plan, Plan) else list({id(p): p for p in plan}.values())
    for distinct in plans:
        check_fit(model, distinct)
    compiled = compile_plan(plan, model.sizes) if isinstance(plan, Plan) else compile_rows(plan, model.sizes)
    return apply_operations(model, compiled, step, attention_mask)


def check_fit(model: Model, plan: Plan) -> None:
    """Raise ``PlanError`` when an edit does not fit the model, ``CircuitError`` when it was made for another."""
    compile_plan(plan, model.sizes)
    for fingerprint in plan.made_for:
        fingerprint.check(model.fingerprint)


def apply_operations(
    model: Model, operations: Sequence[Operation], step: int, attention_mask: torch.Tensor | None = None
) -> int:
    """Compiled operations, made in this pass; returns how many touched their site."""
    touched = 0
    for operation in operations:
        where = _columns(operation, step, attention_mask)
        if where is None:
            continue
        add = operation.add if step == 0 else operation.add_later
        values = _site(model, operation)
        stacked = [v for v in (operation.scale, add) if v is not None and v.ndim == 3]
        if stacked and stacked[0].shape[0] != values.shape[0]:
            raise PlanError(f"{stacked[0].shape[0]} plans for a batch of {values.shape[0]} rows: give one for each")
        if operation.scale is not None:
            values[where] = values[where] * operation.scale.to(values)
        if add is not None:
            values[where] = values[where] + add.to(values)
        touched += 1
    return touched


def expected_touches(operations: Sequence[Operation], steps: int) -> int:
    """How many (site, step) pairs ``steps`` passes must touch."""
    first = sum(operation.tokens != "generated" for operation in operations)
    later = sum(operation.tokens in ("generated", "reply", "all") for operation in operations)
    return first + later * max(steps - 1, 0) if steps else 0


def _columns(operation: Operation, step: int, attention_mask: torch.Tensor | None) -> Any:
    """Index into ``[B, T, W]`` of the tokens to edit in this pass, or None."""
    tokens = operation.tokens
    if step > 0:
        return (slice(None), slice(-1, None)) if tokens in ("generated", "reply", "all") else None
    if tokens == "generated":
        return None
    if tokens in ("last", "reply"):
        return (slice(None), slice(-1, None))
    if tokens in ("prompt", "all"):
        return (slice(None), slice(None))
    return _indexed(operation, attention_mask)


def _indexed(operation: Operation, attention_mask: torch.Tensor | None) -> Any:
    indices = torch.tensor([int(i) for i in operation.tokens])
    if bool((indices < 0).all()) and attention_mask is None:
        return (slice(None), indices)
    if attention_mask is None:
        raise PlanError("token indices counted from the left need attention_mask=, to skip the padding")
    lengths = attention_mask.sum(-1).cpu()
    width = attention_mask.shape[1]
    from_right = torch.where(indices < 0, indices, indices - lengths[:, None])
    outside = ((from_right >= 0) | (from_right < -lengths[:, None])).any(-1)
    held = torch.ones_like(outside) if operation.rows is None else torch.zeros_like(outside)
    held[list(operation.rows or ())] = True
    if bool((outside & held).any()):
        short = int(lengths[outside & held].min())
        raise PlanError(f"token indices {operation.tokens} lie outside a prompt of {short} tokens")
    from_right[outside] = -1  # rows whose plan has no such edit: scale 1 and add 0 there
    return (torch.arange(len(lengths))[:, None], width + from_right)


def _site(model: Model, operation: Operation) -> Any:
    layer = operation.layer
    if operation.site == "heads":
        return model.out_proj[layer].input
    if operation.site == "attn_out":
        return model.out_proj[layer].output
    if operation.site == "neurons":
        return model.down_proj[layer].input
    return model.down_proj[layer].output
