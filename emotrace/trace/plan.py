"""Edits as plain data: what to change, where, at which tokens; and how they compile to one operation per site.

Every edit is affine, ``x * scale + add`` on a part of a site, so any sequence of edits at one place and one choice of
tokens folds into a single multiply and add per step, however many components it names.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import Self

import torch

from emotrace.errors import PlanError
from emotrace.models.architectures import Sizes
from emotrace.models.traced import Fingerprint

SITE_ORDER = ("heads", "attn_out", "neurons", "mlp_out")
TOKENS = ("last", "prompt", "generated", "reply", "all")
Tokens = str | tuple[int, ...]
Component = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Edit:
    """One affine edit of some components of one layer.

    Attributes:
        site: ``heads`` or ``neurons`` (inputs of the projections), ``attn_out`` or ``mlp_out`` (what the sublayer adds
            to the residual stream).
        layer: counted from 0.
        index: components of the layer; empty for the whole ``attn_out`` or ``mlp_out``.
        scale: multiplies the value that is there (1 keeps it, 0 removes it).
        add: added after scaling, ``[len(index), width]`` (``[D]`` at ``*_out``), or None.
        add_later: for ``tokens="reply"`` and ``"all"``, what is added at reply tokens fed back; None means ``add``.
        tokens: ``last``, ``prompt``, ``generated``, ``reply``, ``all``, or indices into the prompt (from either end).
    """

    site: str
    layer: int
    index: tuple[int, ...] = ()
    scale: float = 1.0
    add: torch.Tensor | None = None
    add_later: torch.Tensor | None = None
    tokens: Tokens = "all"

    def validated(self, sizes: Sizes) -> Self:
        """The edit itself; raises ``PlanError`` naming layer, index or shape and what would fit."""
        if self.site not in SITE_ORDER:
            raise PlanError(f"unknown site {self.site!r}: choose one of {', '.join(SITE_ORDER)}")
        name = f"edit of {self.site} in layer {self.layer}"
        if not 0 <= self.layer < sizes.layers:
            raise PlanError(f"{name}: the model has layers 0 to {sizes.layers - 1}")
        indices = isinstance(self.tokens, tuple) and self.tokens and all(isinstance(i, int) for i in self.tokens)
        if not math.isfinite(self.scale):
            raise PlanError(f"{name}: scale is {self.scale}")
        if not indices and self.tokens not in TOKENS:
            raise PlanError(f"{name}: unknown tokens={self.tokens!r}; choose {', '.join(TOKENS)} or a tuple of indices")
        if self.site in ("heads", "neurons"):
            count = sizes.heads if self.site == "heads" else sizes.neurons
            wrong = [i for i in self.index if not 0 <= i < count]
            if wrong or not self.index:
                raise PlanError(f"{name}: components go from 0 to {count - 1}, got {wrong or 'none'}")
            if len(set(self.index)) < len(self.index):
                raise PlanError(f"{name}: a component is named twice in {self.index}")
            fits = (len(self.index), sizes.head_width if self.site == "heads" else 1)
        else:
            if self.index:
                raise PlanError(f"{name}: {self.site} is edited as a whole; leave index out")
            fits = (1, sizes.width)
        for value in (self.add, self.add_later):
            if value is not None and tuple(value.shape) != fits:
                raise PlanError(f"{name}: values of shape {tuple(value.shape)} do not fit; this takes {fits}")
            if value is not None and not torch.isfinite(value).all():
                raise PlanError(f"{name}: values are not finite")
        return self


@dataclass(frozen=True)
class Plan:
    """Edits in the order given; ``a + b`` does a, then b. Data only: it holds no model and runs nothing.

    Attributes:
        edits: what to do.
        made_for: fingerprints of the models that the edits' values were found on; any other model is refused.
    """

    edits: tuple[Edit, ...] = ()
    made_for: tuple[Fingerprint, ...] = ()

    def __add__(self, other: "Plan") -> "Plan":
        more = tuple(f for f in other.made_for if f not in self.made_for)
        return Plan(self.edits + other.edits, self.made_for + more)

    def __bool__(self) -> bool:
        return bool(self.edits)


@dataclass(frozen=True)
class Operation:
    """All edits of one site, layer and choice of tokens, dense over the site's width W.

    Attributes:
        scale: ``[W]`` or, when rows of a batch have plans of their own, ``[B, 1, W]``; None when nothing is scaled.
        add: the same at the prompt, or None.
        add_later: the same at reply tokens fed back, or None.
        rows: rows of the batch whose plan holds it; None for all.
    """

    site: str
    layer: int
    tokens: Tokens
    scale: torch.Tensor | None
    add: torch.Tensor | None
    add_later: torch.Tensor | None
    rows: tuple[int, ...] | None = None

    def placed(self, device: torch.device, dtype: torch.dtype) -> "Operation":
        """The same operation in the model's dtype, on its device, so that no step converts anything."""

        def moved(value: torch.Tensor | None) -> torch.Tensor | None:
            return None if value is None else value.to(device, dtype)

        return replace_fields(self, scale=moved(self.scale), add=moved(self.add), add_later=moved(self.add_later))


def compile_plan(plan: Plan, sizes: Sizes) -> list[Operation]:
    """Operations in order of execution (layer, then site), validated against ``sizes``; raises ``PlanError``."""
    groups: list[tuple[Edit, list[Edit]]] = []
    for edit in plan.edits:
        edit.validated(sizes)
        place = [g for g in groups if (g[0].layer, g[0].site) == (edit.layer, edit.site)]
        if place and place[-1][0].tokens == edit.tokens:
            place[-1][1].append(edit)
        else:
            groups.append((edit, [edit]))
    groups.sort(key=lambda g: (g[0].layer, SITE_ORDER.index(g[0].site)))
    return [_fold(edits, sizes) for _, edits in groups]


def compile_rows(plans: Sequence[Plan], sizes: Sizes) -> list[Operation]:
    """Operations for a batch whose row i has ``plans[i]``; one plan for all rows compiles to unbatched operations."""
    distinct = {id(plan): plan for plan in plans}
    compiled = {key: compile_plan(plan, sizes) for key, plan in distinct.items()}
    if len(compiled) == 1:
        return next(iter(compiled.values()))
    places: dict[tuple[int, int, int], dict[tuple[str, Tokens], dict[int, Operation]]] = {}
    for key, operations in compiled.items():
        turn: dict[tuple[int, str], int] = {}
        for operation in operations:
            place = (operation.layer, operation.site)
            turn[place] = turn.get(place, -1) + 1
            slot = (operation.layer, SITE_ORDER.index(operation.site), turn[place])
            places.setdefault(slot, {}).setdefault((operation.site, operation.tokens), {})[key] = operation
    rows = [id(plan) for plan in plans]
    return [
        _stacked(by_plan, rows, site, slot[0], tokens)
        for slot in sorted(places)
        for (site, tokens), by_plan in places[slot].items()
    ]


def _stacked(by_plan: Mapping[int, Operation], rows: Sequence[int], site: str, layer: int, tokens: Tokens) -> Operation:
    def stacked(name: str, neutral: float) -> torch.Tensor | None:
        parts = {key: getattr(operation, name) for key, operation in by_plan.items()}
        known = next((part for part in parts.values() if part is not None), None)
        if known is None:
            return None
        blank = torch.full_like(known, neutral)
        return torch.stack([blank if parts.get(key) is None else parts[key] for key in rows])[:, None]

    holding = tuple(row for row, key in enumerate(rows) if key in by_plan)
    return Operation(
        site, layer, tokens, stacked("scale", 1.0), stacked("add", 0.0), stacked("add_later", 0.0), holding
    )


def _fold(edits: Sequence[Edit], sizes: Sizes) -> Operation:
    site = edits[0].site
    part = {"heads": sizes.head_width, "neurons": 1}.get(site, sizes.width)
    count = {"heads": sizes.heads, "neurons": sizes.neurons}.get(site, 1)
    scale = torch.ones(count, part, dtype=torch.float64)
    add = torch.zeros(count, part, dtype=torch.float64)
    later = torch.zeros(count, part, dtype=torch.float64)
    for edit in edits:
        index = list(edit.index) if edit.index else [0]
        after = edit.add_later if edit.add_later is not None else edit.add
        for total, value in ((add, edit.add), (later, after)):
            total[index] *= edit.scale
            if value is not None:
                total[index] += value.double()
        scale[index] *= edit.scale
    return Operation(
        site,
        edits[0].layer,
        edits[0].tokens,
        None if bool((scale == 1).all()) else scale.flatten(),
        add.flatten() if bool((add != 0).any()) else None,
        later.flatten() if bool((later != 0).any()) else None,
    )


def zero(*, heads: Iterable[Component] = (), neurons: Iterable[Component] = (), tokens: Tokens = "all") -> Plan:
    """Set components to zero. Components are (layer, index) pairs.

    >>> plan = zero(heads=[(3, 1), (4, 0)]) + zero(neurons=[(3, 17)], tokens="last")
    >>> [(edit.site, edit.layer, edit.index, edit.tokens) for edit in plan.edits]
    [('heads', 3, (1,), 'all'), ('heads', 4, (0,), 'all'), ('neurons', 3, (17,), 'last')]
    """
    return scale(0.0, heads=heads, neurons=neurons, tokens=tokens)


def scale(
    factor: float, *, heads: Iterable[Component] = (), neurons: Iterable[Component] = (), tokens: Tokens = "all"
) -> Plan:
    """Multiply components by ``factor``."""
    edits: list[Edit] = []
    for site, components in (("heads", heads), ("neurons", neurons)):
        edits += [
            Edit(site, layer, index, scale=factor, tokens=tokens) for layer, index in _by_layer(components).items()
        ]
    return Plan(tuple(edits))


def replace(values: Mapping[Component, torch.Tensor], site: str, *, tokens: Tokens = "all") -> Plan:
    """Set components of ``site`` (``heads`` or ``neurons``) to given values (means, another run's activations)."""
    return _valued(values, None, site, 0.0, 1.0, tokens)


def shift(
    values: Mapping[Component, torch.Tensor],
    site: str,
    *,
    strength: float = 1.0,
    later: Mapping[Component, torch.Tensor] | None = None,
    tokens: Tokens = "reply",
) -> Plan:
    """Add ``strength * value`` to components of ``site``; ``later`` holds other values for reply tokens fed back."""
    return _valued(values, later, site, 1.0, strength, tokens)


def shift_sublayer(
    layer: int,
    sublayer: str,
    vector: torch.Tensor,
    *,
    later: torch.Tensor | None = None,
    tokens: Tokens = "reply",
) -> Plan:
    """Add ``vector [D]`` to what the sublayer (``attn`` or ``mlp``) of ``layer`` adds to the residual stream."""
    rows = None if later is None else later.reshape(1, -1)
    return Plan((Edit(f"{sublayer}_out", layer, add=vector.reshape(1, -1), add_later=rows, tokens=tokens),))


def _by_layer(components: Iterable[Component]) -> dict[int, tuple[int, ...]]:
    layers: dict[int, list[int]] = {}
    for layer, index in components:
        layers.setdefault(int(layer), []).append(int(index))
    return {layer: tuple(indices) for layer, indices in layers.items()}


def _valued(
    values: Mapping[Component, torch.Tensor],
    later: Mapping[Component, torch.Tensor] | None,
    site: str,
    factor: float,
    strength: float,
    tokens: Tokens,
) -> Plan:
    if later is not None and set(later) != set(values):
        raise PlanError(f"values at {site} for the prompt and for the reply name different components")

    def rows(source: Mapping[Component, torch.Tensor], layer: int, index: tuple[int, ...]) -> torch.Tensor:
        return strength * torch.stack([source[layer, i].double().reshape(-1) for i in index])

    return Plan(
        tuple(
            Edit(
                site,
                layer,
                index,
                scale=factor,
                add=rows(values, layer, index),
                add_later=None if later is None else rows(later, layer, index),
                tokens=tokens,
            )
            for layer, index in _by_layer(values).items()
        )
    )
