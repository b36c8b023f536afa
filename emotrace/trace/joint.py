"""What plans at the last token do to the model's final reading: many plans, each prompt's beginning computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import nnsight
import torch

from emotrace.errors import DataError, PlanError
from emotrace.trace.apply import apply
from emotrace.trace.pairs import rated
from emotrace.trace.prefixes import continued, split, twin

if TYPE_CHECKING:
    from emotrace.models.traced import Model
    from emotrace.trace.attribute import Metric
    from emotrace.trace.plan import Plan


def last_token_readings(
    model: Model,
    batches: Sequence[tuple[Sequence[Sequence[int]], Sequence[Plan]]],
    *,
    direction: torch.Tensor | None = None,
    metric: Metric | None = None,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The last token's final state under each plan, prompt by prompt, along a direction; and how far it moved.

    As :func:`emotrace.trace.projections.projections`, for plans that leave all earlier tokens alone: a plan costs one
    token of each prompt, behind a cached prefix. One request to a hosted model.

    Args:
        model: any model.
        batches: N prompts of each batch, and its plans, P of them in every batch. Edits act at ``tokens="last"``; their
            values may be for each row (``[N, 1, W]``).
        direction: ``[D]``, for the state after the final norm.
        metric: in place of a direction, of the last token's logits.

    Returns:
        For each batch, float64 ``[P, N]`` readings, and float64 ``[P, N]`` distances of the state after the final norm
        from that of the unedited prompt.

    Raises:
        DataError: a prompt of fewer than two tokens.
        PlanError: an edit at other tokens, or one that does not fit the model.
    """
    if min(len(ids) for prompts, _ in batches for ids in prompts) < 2:
        raise DataError("a prompt of one token has no prefix to share; give prompts of two tokens or more")
    elsewhere = [edit for _, plans in batches for plan in plans for edit in plan.edits if edit.tokens != "last"]
    if elsewhere:
        raise PlanError(f"the prefix is read once for all plans, and an edit acts at tokens={elsewhere[0].tokens!r}")
    inputs, tokens = [], 0
    for prompts, plans in batches:
        batch = split(model, [ids[:-1] for ids in prompts], room=1)
        mask = torch.cat([batch.mask, torch.ones(len(prompts), 1, dtype=torch.long)], 1).to(model.device)
        last = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1)[:, -1:]}
        ends = torch.tensor([[ids[-1]] for ids in prompts], device=model.device)
        inputs.append((*batch.inputs(model.device), ends, last, [*plans]))
        tokens += batch.tokens + len(prompts) * (1 + len(plans))
    model.count(joint_tokens=tokens)
    final_norm, reference = model.final_norm, None if direction is None else direction[None]
    with model.lock, model.session():
        found = nnsight.save([])
        for head, pick, ids, given, ends, last, plans in inputs:
            owners = torch.zeros(len(ends), dtype=torch.long)
            given = continued(model, head, pick, given)
            with model.trace(ids, **{**given, "use_cache": True}, logits_to_keep=1):
                with torch.no_grad():
                    cache = model.output.past_key_values
            with model.trace(ends, **last, past_key_values=twin(cache), use_cache=True, logits_to_keep=1):
                with torch.no_grad():
                    unmoved = final_norm.output[:, -1].double()
            readings = []
            moves = []
            for plan in plans:
                with model.trace(ends, **last, past_key_values=twin(cache), use_cache=True, logits_to_keep=1):
                    with torch.no_grad():
                        apply(model, plan)
                        state = final_norm.output
                        seen = state if metric is None else model.output.logits
                        readings.append(rated(seen, owners, reference, metric)[:, 0])
                        moves.append((state[:, -1].double() - unmoved).norm(dim=-1).cpu())
            found.append((torch.stack(readings), torch.stack(moves)))
    made: list[tuple[torch.Tensor, torch.Tensor]] = found
    return made
