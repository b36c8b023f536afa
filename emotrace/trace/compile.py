"""From edits to one operation per site: what a pass has to do, however many components the plan names.

Every edit is affine, so edits of one place and one choice of tokens fold into one blank, one multiply and one add.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from itertools import count
from typing import Any

import torch

from emotrace.errors import PlanError
from emotrace.models.traced import Model
from emotrace.trace.plan import Edit, Plan
from emotrace.trace.sites import SITES
from emotrace.trace.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Operation:
    """All edits of one site, layer and choice of tokens, dense over the site's width W: blank, then scale, then add.

    Attributes:
        site: where.
        layer: counted from 0.
        tokens: a name or indices.
        blank: bool, coordinates whose value is dropped, even if it is not finite; None when none is.
        scale: factors, or None when nothing is scaled.
        add: what is added at the prompt, or None.
        add_later: what is added at reply tokens fed back, or None.
        rows: rows of the batch whose plan holds it; None for all.

    Tensors are ``[W]`` for every row and token, else broadcast to ``[B, P, W]``.
    """

    site: str
    layer: int
    tokens: Tokens
    blank: torch.Tensor | None
    scale: torch.Tensor | None
    add: torch.Tensor | None
    add_later: torch.Tensor | None
    rows: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"edit of {self.site} in layer {self.layer} at tokens={self.tokens!r}"

    def placed(self, model: Model) -> "Operation":
        """The same in the model's dtype, on the layer's device, so that no pass converts anything."""
        device = model.device_of(self.layer)

        def moved(value: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
            return None if value is None else value.to(device, dtype)

        fields: dict[str, Any] = {n: moved(getattr(self, n), model.dtype) for n in ("scale", "add", "add_later")}
        return with_fields(self, blank=moved(self.blank, torch.bool), **fields)

    @property
    def values_per_row(self) -> int | None:
        """The batch size that its tensors are for; None when they fit any."""
        sizes = {
            t.shape[0] for t in (self.blank, self.scale, self.add, self.add_later) if t is not None and t.ndim == 3
        }
        return max(sizes - {1}, default=None)


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
    return [_fold(edits, model).placed(model) for edits in groups]


def compile_rows(plans: Sequence[Plan], model: Model) -> list[Operation]:
    """Operations of a batch whose row i has ``plans[i]``; one plan for all rows compiles to unbatched operations."""
    distinct = {id(plan): plan for plan in plans}
    if len(distinct) == 1:
        return compile_plan(plans[0], model)
    if any(plan.rows is not None for plan in distinct.values()):
        raise PlanError("values for each row and a plan for each row do not go together: give one plan for the batch")
    slots: dict[tuple[int, int, int], dict[Tokens, dict[int, Operation]]] = {}
    for key, plan in distinct.items():
        turns: dict[tuple[int, str], Iterable[int]] = {}
        for operation in compile_plan(plan, model):
            turn = next(iter(turns.setdefault((operation.layer, operation.site), count())))
            slot = (operation.layer, SITES.index(operation.site), turn)
            slots.setdefault(slot, {}).setdefault(operation.tokens, {})[key] = operation
    keys = [id(plan) for plan in plans]
    return [_stacked(by_plan, keys) for slot in sorted(slots) for by_plan in slots[slot].values()]


def _stacked(by_plan: Mapping[int, Operation], keys: Sequence[int]) -> Operation:
    """Operations of several plans at one place as one, rows of plans that lack it left as they are."""

    def stacked(name: str, neutral: float) -> torch.Tensor | None:
        parts = {key: value for key, o in by_plan.items() if (value := getattr(o, name)) is not None}
        if not parts:
            return None
        shape = torch.broadcast_shapes(*(part.shape[-2:] for part in parts.values()))
        known = next(iter(parts.values()))
        blank = torch.full(shape, neutral, dtype=known.dtype, device=known.device)
        rows = [parts[key].reshape(parts[key].shape[-2:]).expand(shape) if key in parts else blank for key in keys]
        return torch.stack(rows if len(shape) == 2 else [row[None] for row in rows])

    holding = tuple(row for row, key in enumerate(keys) if key in by_plan)
    tensors = {"blank": 0.0, "scale": 1.0, "add": 0.0, "add_later": 0.0}
    folded: dict[str, Any] = {name: stacked(name, neutral) for name, neutral in tensors.items()}
    return with_fields(next(iter(by_plan.values())), rows=holding, **folded)


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
    return Operation(
        # with nothing between attention and MLP, adding to the stream is adding to what attention adds
        "attn_out" if site == "resid_attn" and model.architecture.parallel else site,
        edits[0].layer,
        edits[0].tokens,
        blank.flatten() if bool(blank.any()) else None,
        scale.flatten() if bool((scale != 1).any()) else None,
        add.flatten(-2) if bool((add != 0).any()) else None,
        later.flatten(-2) if bool((later != 0).any()) else None,
    )


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
