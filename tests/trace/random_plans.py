"""Random edits that fit a model, as hypothesis strategies, and the passes they are tried in."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import emotrace as et
from emotrace.trace.sites import COMPONENT_SITES, SITES
from tests.conformance.hooks import HookEdit
from tests.tiny import MIXTURES, tiny_model

DRAWN = ("llama", "gemma2", "gpt2", "gpt_neox", "mixtral")
"""Grouped heads, norms behind sublayers, Conv1D with absolute positions, a parallel residual, experts."""

NAMES = ("last", "prompt", "generated", "reply", "all")
INDICES = ((0,), (-1,), (1, -1), (-3, 0), (2, 0, -1))
"""Indices that name no token twice in a prompt of ``SHORTEST`` tokens or more."""

SHORTEST = 5
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# Derandomised, so that every run tries the same examples; a pass takes milliseconds, but the first of a model more.
OPTIONS: dict[str, Any] = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}
few = settings(max_examples=8, **OPTIONS)
some = settings(max_examples=20, **OPTIONS)
many = settings(max_examples=150, **OPTIONS)

model_of = cache(tiny_model)
families = st.sampled_from(DRAWN)
dtypes = st.sampled_from(DTYPES)


def vector(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sites_of(family: str, *, settable: bool = False) -> list[str]:
    """Sites of a family; ``settable`` leaves out the one that a parallel residual can only add to."""
    gone = {"neurons"} if family in MIXTURES else set()
    gone |= {"resid_attn"} if settable and family == "gpt_neox" else set()
    return [site for site in SITES if site not in gone]


@dataclass(frozen=True)
class Draw:
    """One random edit, from which the library's plan and the reference's hook are made.

    Attributes:
        kind: ``zero``, ``scale``, ``set`` or ``add``.
        index: the component, or None at sites without components.
        value: ``[W]`` or ``[P, W]``, a neuron's without the last axis; for ``scale`` a number.
    """

    kind: str
    site: str
    layer: int
    index: int | None
    dims: tuple[int, ...] | None
    tokens: Any
    value: Any

    @property
    def component(self) -> Any:
        return self.layer if self.index is None else (self.layer, self.index)

    @property
    def plan(self) -> et.Plan:
        options: dict[str, Any] = {"dims": self.dims, "tokens": self.tokens}
        if self.kind == "zero":
            return et.zero(**{self.site: [self.component]}, **options)
        if self.kind == "scale":
            return et.scale(self.value, **{self.site: [self.component]}, **options)
        return getattr(et, self.kind)({self.component: self.value}, self.site, **options)

    @property
    def hook(self) -> HookEdit:
        value = None if self.kind == "zero" else self.value
        return HookEdit(self.kind, self.site, self.layer, self.index, self.dims, value, tokens=self.tokens)


tokens_in_a_prompt = st.one_of(st.sampled_from(NAMES), st.sampled_from(INDICES))


@st.composite
def places(draw: Any, family: str, *, settable: bool = False) -> tuple[str, int, int | None]:
    """Site, layer and component."""
    site = draw(st.sampled_from(sites_of(family, settable=settable)))
    count = model_of(family).sizes.shape(site)[0]
    index = draw(st.integers(0, count - 1)) if site in COMPONENT_SITES else None
    return site, draw(st.integers(0, 2)), index


@st.composite
def edits(
    draw: Any,
    family: str,
    *,
    place: tuple[str, int, int | None] | None = None,
    tokens: Any = tokens_in_a_prompt,
    kinds: tuple[str, ...] = ("zero", "scale", "set", "add"),
) -> Draw:
    """A random edit of a random place, or of the one given."""
    site, layer, index = draw(places(family)) if place is None else place
    parallel = family == "gpt_neox" and site == "resid_attn"
    kind = "add" if parallel else draw(st.sampled_from(kinds))
    wide = model_of(family).sizes.shape(site)[1]
    dims = None
    if site != "neurons" and draw(st.booleans()):
        dims = tuple(draw(st.lists(st.integers(0, wide - 1), min_size=1, max_size=4, unique=True)))
    where = draw(tokens)
    if kind == "scale":
        return Draw(kind, site, layer, index, dims, where, draw(st.sampled_from((-1.0, 0.0, 0.5, 1.0, 3.0))))
    shape = () if site == "neurons" else (wide if dims is None else len(dims),)
    if isinstance(where, tuple) and draw(st.booleans()):
        shape = (len(where), *shape)
    return Draw(kind, site, layer, index, dims, where, vector(*shape, seed=draw(st.integers(0, 99))))


def plan_of(drawn: list[Draw]) -> et.Plan:
    return sum((one.plan for one in drawn), et.Plan())


@st.composite
def plans(draw: Any, family: str, *, most: int = 3, tokens: Any = tokens_in_a_prompt) -> et.Plan:
    """The sum of some random edits, possibly none."""
    return plan_of(draw(st.lists(edits(family, tokens=tokens), max_size=most)))


def logits(model: Any, ids: Any, plan: Any, mask: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
    """``[B, T, V]`` of a pass; without a mask nothing is padding."""
    ids = torch.as_tensor(ids)
    mask = torch.ones_like(ids) if mask is None else mask
    with model.trace(ids, attention_mask=mask, use_cache=False, **options):
        with torch.no_grad():
            et.apply(model, plan, attention_mask=mask, input_ids=ids)
            found = model.output.logits.clone().save()
    return found


def padded(
    prompts: list[list[int]], left: list[int], right: list[int], filler: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and positions of prompts with that much padding on either side of each, one width for all."""
    width = max(a + len(ids) + b for a, ids, b in zip(left, prompts, right, strict=True))
    ids = torch.full((len(prompts), width), filler)
    mask = torch.zeros_like(ids)
    for row, (start, prompt) in enumerate(zip(left, prompts, strict=True)):
        ids[row, start : start + len(prompt)] = torch.tensor(prompt)
        mask[row, start : start + len(prompt)] = 1
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)
