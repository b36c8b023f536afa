"""How far the model's final reading goes along a direction, under many variants of an edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import nnsight
import torch

from emotrace.trace.apply import apply

if TYPE_CHECKING:
    from emotrace.models.traced import Model
    from emotrace.trace.batches import TokenBatch
    from emotrace.trace.plan import Component, Plan

Variants = Sequence[Sequence[Sequence["Component"]]]
"""Components of each of N prompts, in each of V variants; a list that comes again is made into a plan once."""


def projections(
    model: Model,
    batch: TokenBatch,
    variants: Variants,
    plan_of: Callable[[Sequence[Component]], Plan],
    direction: torch.Tensor,
) -> torch.Tensor:
    """Projection of the last token's final state (after the final norm) on a direction, prompt by prompt.

    A forward pass for each variant, with a plan for each prompt; one request to a hosted model.

    Args:
        model: any model.
        batch: N prompts.
        variants: what is edited in each of V passes.
        plan_of: the edit of some components.
        direction: float64 ``[D]``.

    Returns:
        float64 ``[V, N]``.
    """
    made = {id(part): plan_of(part) for variant in variants for part in variant}
    return plan_readings(model, batch, [[made[id(part)] for part in variant] for variant in variants], direction)


def plan_readings(
    model: Model, batch: TokenBatch, plans: Sequence[Plan | Sequence[Plan]], directions: torch.Tensor
) -> torch.Tensor:
    """Projections of the last token's final state (after the final norm) on directions, a forward pass for each plan.

    Args:
        model: any model.
        batch: N prompts.
        plans: V of them, each one plan for all prompts, or one for each.
        directions: float64 ``[D]``, or several, ``[R, D]``.

    Returns:
        float64 ``[V, N]``, or ``[V, N, R]``.
    """
    final_norm = model.final_norm
    with model.lock, model.session():
        found = nnsight.save([])
        for plan in plans:
            with model.trace(batch.ids, attention_mask=batch.mask, use_cache=False, logits_to_keep=1):
                with torch.no_grad():
                    apply(model, plan)
                    state = final_norm.output[:, -1].double()
                    found.append(torch.inner(state, directions.to(state.device)).cpu())
    model.count(curve_tokens=len(plans) * int(batch.mask.sum()))
    return torch.stack(found)
