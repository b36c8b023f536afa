"""From edits to one operation per site: what a pass has to do, however many components the plan names.

Every edit is affine, so edits of one place and one choice of tokens fold into one blank, one multiply and one add.
"""

from collections.abc import Sequence

import torch

from emotrace.errors import PlanError
from emotrace.models.traced import Model
from emotrace.trace.passes import Operation, for_rows
from emotrace.trace.plan import Edit, Plan
from emotrace.trace.sites import SITES, place


def compile_plan(plan: Plan, model: Model) -> list[Operation]:
    """Operations of a plan without spans, in order of execution, in the model's dtype; raises ``PlanError``."""
    plan.check(model)
    groups: list[list[Edit]] = []
    for edit in plan.edits:
        same = [g for g in groups if (g[0].layer, g[0].site) == (edit.layer, edit.site)]
        if same and same[-1][0].tokens == edit.tokens:
            same[-1].append(edit)
        else:
            groups.append([edit])
    groups.sort(key=lambda g: (g[0].layer, SITES.index(g[0].site)))
    return [_fold(edits, model) for edits in groups]


def compile_rows(plans: Sequence[Plan], model: Model) -> list[Operation]:
    """Operations of a batch whose row i has ``plans[i]``; one plan for all rows compiles to unbatched operations."""
    if len({id(plan) for plan in plans}) > 1 and any(plan.rows is not None for plan in plans):
        raise PlanError("values for each row and a plan for each row do not go together: give one plan for the batch")
    compiled, pick = compile_distinct(plans, model)
    return for_rows(compiled, pick)


def compile_distinct(plans: Sequence[Plan], model: Model) -> tuple[list[list[Operation]], list[int]]:
    """Operations of every distinct plan, and which of them each row has."""
    distinct = {id(plan): plan for plan in plans}
    order = {key: n for n, key in enumerate(distinct)}
    return [compile_plan(plan, model) for plan in distinct.values()], [order[id(plan)] for plan in plans]


def _fold(edits: Sequence[Edit], model: Model) -> Operation:
    site, (count_, width) = edits[0].site, model.sizes.shape(edits[0].site)
    blank = torch.zeros(count_, width, dtype=torch.bool)
    scale = torch.ones(count_, width, dtype=torch.float64)
    add = later = torch.zeros(count_, width, dtype=torch.float64)
    for edit in edits:
        rows = torch.tensor(edit.index or (0,))[:, None]
        dims = torch.arange(width) if edit.dims is None else torch.tensor(edit.dims)
        add = _affine(add, rows, dims, edit.scale, edit.add)
        later = _affine(later, rows, dims, edit.scale, edit.add if edit.add_later is None else edit.add_later)
        if edit.scale == 0:
            blank[rows, dims], scale[rows, dims] = True, 1.0
        else:
            scale[rows, dims] *= edit.scale
    largest = torch.finfo(model.dtype).max
    for total in (scale, add, later):
        if not bool((total.abs() <= largest).all()):
            raise PlanError(
                f"edits of {site} in layer {edits[0].layer} come to {float(total.abs().max()):.3g} together, which "
                f"overflows {model.dtype} ({largest:.3g})"
            )
    # with nothing between attention and MLP, adding to the stream is adding to what attention adds
    acts_at = "attn_out" if site == "resid_attn" and model.architecture.parallel else site
    layer, device = edits[0].layer, model.device_of(edits[0].layer)

    def placed(total: torch.Tensor, used: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
        return total.flatten(-2).to(device, dtype) if bool(used.any()) else None

    return {
        "site": acts_at,
        "layer": layer,
        "order": SITES.index(acts_at),
        "at": place(model, acts_at, layer),
        "tokens": edits[0].tokens,
        "blank": placed(blank, blank, torch.bool),
        "scale": placed(scale, scale != 1, model.dtype),
        "add": placed(add, add != 0, model.dtype),
        "add_later": placed(later, later != 0, model.dtype),
        "rows": None,
    }


def _affine(
    total: torch.Tensor, rows: torch.Tensor, dims: torch.Tensor, factor: float, value: torch.Tensor | None
) -> torch.Tensor:
    """``total * factor + value`` on some components and coordinates; leading axes of the two broadcast."""
    lead = torch.broadcast_shapes(total.shape[:-2], value.shape[:-2]) if value is not None else total.shape[:-2]
    result = total.expand(*lead, *total.shape[-2:]).clone()
    result[..., rows, dims] *= factor
    if value is not None:
        result[..., rows, dims] += value.double().cpu()
    return result
