"""Edits as plain data: what to change, where, at which tokens."""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any, Self

import torch

from emotrace.artifacts import Artifact
from emotrace.errors import ArtifactError, PlanError, shown
from emotrace.models.traced import Fingerprint, Model
from emotrace.trace.sites import COMPONENT_SITES, SITES
from emotrace.trace.tokens import Span, Tokens, check_tokens, locate

Component = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Edit:
    """One affine edit, ``x * scale + add``, of some components of one layer.

    Attributes:
        site: one of ``emotrace.trace.sites.SITES``.
        layer: counted from 0.
        index: components of the layer, K of them; empty at sites that have none (all but ``heads`` and ``neurons``).
        dims: coordinates within each component, or None for all of them.
        scale: multiplies the value that is there (1 keeps it; 0 removes it, whatever it was).
        add: added after scaling, or None. ``[K, W]`` for every row and token, ``[P, K, W]`` for each of P tokens, or
            ``[B, P, K, W]`` and ``[B, 1, K, W]`` for each row of the batch; W is the component's width, or how many
            ``dims`` there are; K is 1 at sites without components.
        add_later: for ``tokens="reply"`` and ``"all"``, what is added at reply tokens fed back; None means ``add``.
        tokens: ``last``, ``prompt``, ``generated``, ``reply``, ``all``, indices into the prompt, or a ``Span`` of it.
    """

    site: str
    layer: int
    index: tuple[int, ...] = ()
    dims: tuple[int, ...] | None = None
    scale: float = 1.0
    add: torch.Tensor | None = None
    add_later: torch.Tensor | None = None
    tokens: Tokens = "all"

    def validated(self, model: Model) -> Self:
        """The edit itself; raises ``PlanError`` naming layer, index, shape or dtype and what would fit."""
        if not isinstance(self.site, str) or self.site not in SITES:
            raise PlanError(f"unknown site {shown(self.site)}: choose one of {', '.join(SITES)}")
        name, row = f"edit of {self.site} in layer {self.layer}", model.architecture
        if self.site == "neurons" and not model.down_proj:
            raise PlanError(
                f"{name}: {row.name} is a mixture of experts, fused in one module, and has no neurons as a site; what "
                "works: heads, attn_out, resid_attn, mlp_out (the whole MLP's output), resid_mlp"
            )
        if type(self.layer) is not int or not 0 <= self.layer < model.sizes.layers:
            raise PlanError(f"{name}: the model has layers 0 to {model.sizes.layers - 1}")
        if not isinstance(self.scale, int | float) or not math.isfinite(self.scale):
            raise PlanError(f"{name}: scale is {shown(self.scale)}, not a finite number")
        try:
            check_tokens(self.tokens)
        except PlanError as error:
            raise PlanError(f"{name}: {error}") from None
        if self.site == "resid_attn" and row.parallel and self.scale != 1:
            raise PlanError(
                f"{name}: {row.name} runs attention and MLP in parallel, so no residual stream lies between them; it "
                "can only be added to. What works: add there, or zero, scale and set at attn_out"
            )
        self._check_components(name, model)
        for value in (self.add, self.add_later):
            self._check_value(name, value, model)
        if self.add_later is not None and self.tokens not in ("reply", "all"):
            raise PlanError(f"{name}: values for reply tokens need tokens='reply' or 'all', not {self.tokens!r}")
        return self

    def _check_components(self, name: str, model: Model) -> None:
        for field, value in (("index", self.index), ("dims", self.dims or ())):
            if not isinstance(value, tuple):
                raise PlanError(f"{name}: {field} is {shown(value)}; give a tuple of whole numbers")
        count, width = model.sizes.shape(self.site)
        if self.site in COMPONENT_SITES:
            wrong = [i for i in self.index if type(i) is not int or not 0 <= i < count]
            if wrong or not self.index:
                raise PlanError(f"{name}: components go from 0 to {count - 1}, got {wrong or 'none'}")
            if len(set(self.index)) < len(self.index):
                raise PlanError(f"{name}: a component is named twice in {self.index}")
        elif self.index:
            raise PlanError(f"{name}: {self.site} has no components; leave index out")
        if self.dims is None:
            return
        if self.site == "neurons":
            raise PlanError(f"{name}: a neuron is one number; leave dims out")
        if self.dims == () or any(type(d) is not int or not 0 <= d < width for d in self.dims):
            raise PlanError(f"{name}: dims go from 0 to {width - 1}, got {self.dims}")
        if len(set(self.dims)) < len(self.dims):
            raise PlanError(f"{name}: a coordinate is named twice in dims={self.dims}")

    def _check_value(self, name: str, value: Any, model: Model) -> None:
        if value is None:
            return
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise PlanError(f"{name}: values are {kind}; give a tensor of floating-point numbers")
        width = len(self.dims) if self.dims is not None else model.sizes.shape(self.site)[1]
        fits, shape = (len(self.index) or 1, width), tuple(value.shape)
        if not 2 <= len(shape) <= 4 or shape[-2:] != fits:
            raise PlanError(
                f"{name}: values of shape {shape} do not fit; this takes {fits} (components, width), after one axis "
                "for explicit tokens or two for rows and tokens"
            )
        if len(shape) > 2:
            several = len(self.tokens) if isinstance(self.tokens, tuple) else 1
            if shape[-3] not in (1, several) and not isinstance(self.tokens, Span):
                raise PlanError(
                    f"{name}: values for {shape[-3]} tokens, but tokens={self.tokens!r} takes {several}; "
                    "name the tokens by as many indices"
                )
        if not torch.isfinite(value).all():
            raise PlanError(f"{name}: values are not finite")
        largest = torch.finfo(model.dtype).max
        if float(value.abs().max()) > largest:
            raise PlanError(
                f"{name}: values up to {float(value.abs().max()):.3g} overflow {model.dtype} ({largest:.3g})"
            )


@dataclass(frozen=True)
class Plan:
    """Edits in the order given; ``a + b`` does a, then b. Data only: it holds no model and runs nothing.

    Edits of different places run in the order in which the model computes them; edits of one place in the order given.

    Attributes:
        edits: what to do.
        made_for: fingerprints of the models that the edits' values were found on; any other model is refused.
    """

    edits: tuple[Edit, ...] = ()
    made_for: tuple[Fingerprint, ...] = ()

    def __add__(self, other: "Plan") -> "Plan":
        if not isinstance(other, Plan):
            raise PlanError(f"a plan adds to a plan, not to a {type(other).__name__}")
        more = tuple(f for f in other.made_for if f not in self.made_for)
        return Plan(self.edits + other.edits, self.made_for + more)

    def __bool__(self) -> bool:
        return bool(self.edits)

    @property
    def spans(self) -> bool:
        """Whether an edit acts at a ``Span``, which has to be located in each prompt."""
        return any(isinstance(edit.tokens, Span) for edit in self.edits)

    @property
    def rows(self) -> int | None:
        """The batch size that its per-row values are for, None where they fit any; ``PlanError`` when they disagree."""
        values = [v for edit in self.edits for v in (edit.add, edit.add_later) if v is not None and v.ndim == 4]
        sizes = {v.shape[0] for v in values} - {1}
        if len(sizes) > 1:
            raise PlanError(f"values for each row are for batches of {sorted(sizes)} rows: one plan, one batch size")
        return sizes.pop() if sizes else None

    def for_rows(self, rows: Sequence[int]) -> "Plan":
        """The plan for some rows of its batch."""
        if self.rows is None:
            return self

        def taken(value: torch.Tensor | None) -> torch.Tensor | None:
            return value if value is None or value.ndim < 4 or len(value) == 1 else value[list(rows)]

        edits = (with_fields(edit, add=taken(edit.add), add_later=taken(edit.add_later)) for edit in self.edits)
        return with_fields(self, edits=tuple(edits))

    def located(self, model: Model, prompt: Sequence[int], row: int) -> "Plan":
        """The plan of one row, every ``Span`` turned into the indices it has in its ``prompt`` (token ids).

        A plan without spans is the same for all rows, and stays itself.
        """
        if not self.spans:
            return self
        mine = self.for_rows([row])
        return with_fields(mine, edits=tuple(_located(edit, model, prompt) for edit in mine.edits))

    def __shipped__(self, model: Model) -> tuple[Any, ...]:
        """On a server: compiled operations (``emotrace.remote.wire``)."""
        from emotrace.trace.compile import compile_plan  # a plan is data; what makes it run is not its business

        if self.spans:
            raise PlanError("locate an edit at a Span before a remote block: plan.located(model, ids, row)")
        return list, (compile_plan(self, model),)

    def check(self, model: Model) -> None:
        """Raise ``PlanError`` when an edit does not fit the model, ``CircuitError`` when it was made for another."""
        strange = [e for e in self.edits if not isinstance(e, Edit)] if isinstance(self.edits, tuple) else [self.edits]
        if strange:
            raise PlanError(f"a plan holds a tuple of edits (emotrace.Edit), not {shown(strange[0])}")
        for fingerprint in self.made_for:
            fingerprint.check(model.fingerprint)
        for number, edit in enumerate(self.edits):
            try:
                edit.validated(model)
            except PlanError as error:
                raise PlanError(f"{error} (edit {number + 1} of {len(self.edits)})") from None
        _ = self.rows

    def save(self, path: str | Path) -> Path:
        """Write as safetensors, with everything but the values as JSON in its metadata."""
        values: dict[str, torch.Tensor] = {}
        edits = []
        for number, edit in enumerate(self.edits):
            tokens = edit.tokens
            record = {name: getattr(edit, name) for name in ("site", "layer", "index", "dims", "scale")}
            edits.append({**record, "tokens": {"span": asdict(tokens)} if isinstance(tokens, Span) else tokens})
            for name in ("add", "add_later"):
                if getattr(edit, name) is not None:
                    values[f"{number}.{name}"] = getattr(edit, name)
        return PlanFile(tuple(edits), tuple(asdict(f) for f in self.made_for), values).save(path)

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """What ``save`` wrote; raises ``ArtifactError`` for anything else."""
        held = PlanFile.load(path)
        edits = []
        try:
            for number, record in enumerate(held.edits):
                tokens = record["tokens"]
                tokens = Span(**tokens["span"]) if isinstance(tokens, dict) else tokens
                given: dict[str, Any] = {n: held.values.get(f"{number}.{n}") for n in ("add", "add_later")}
                edits.append(Edit(**{**record, **given, "tokens": tokens}))
            return cls(tuple(edits), tuple(Fingerprint(**f) for f in held.made_for))
        except (TypeError, KeyError) as error:
            raise ArtifactError(f"{path}: not a plan that this version reads ({error})") from error


@dataclass(frozen=True)
class PlanFile(Artifact):
    """A plan on disk: edits as JSON, their values as tensors named ``<edit>.add`` and ``<edit>.add_later``."""

    edits: tuple[dict[str, Any], ...]
    made_for: tuple[dict[str, Any], ...]
    values: Mapping[str, torch.Tensor]


def _located(edit: Edit, model: Model, prompt: Sequence[int]) -> Edit:
    if not isinstance(edit.tokens, Span):
        return edit
    found = with_fields(edit, tokens=locate(model, prompt, edit.tokens))
    found.validated(model)
    return found


def by_layer(components: Iterable[Any], site: str) -> dict[int, tuple[int, ...]]:
    """Indices per layer of (layer, index) pairs, or of bare layers at sites without components."""
    paired = site in COMPONENT_SITES
    wanted = "(layer, index) pairs of whole numbers" if paired else "layers, whole numbers"
    layers: dict[int, list[int]] = {}
    try:
        listed = list(components)
    except TypeError:
        raise PlanError(f"{site} are named by {wanted}, got {shown(components)}") from None
    for component in listed:
        try:
            layer, *index = (operator.index(part) for part in (component if paired else [component]))
        except (TypeError, ValueError):
            raise PlanError(f"{site} are named by {wanted}, got {shown(component)}") from None
        if len(index) != paired:
            raise PlanError(f"{site} are named by {wanted}, got {shown(component)}")
        if not paired and layer in layers:
            raise PlanError(f"{site}: layer {layer} is named twice")
        layers.setdefault(layer, []).extend(index)
    return {layer: tuple(indices) for layer, indices in layers.items()}
