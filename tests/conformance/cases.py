"""The same edit said twice: as a plan for the library, and for each row of a batch as edits for the plain hooks."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch

import emotrace as et
from tests.conformance.hooks import SITES, HookEdit, activations, layout_of, module_at
from tests.tiny import FAMILIES, MIXTURES, QUICK, tiny_hf, tiny_model

PARALLEL = "gpt_neox"
KINDS = ("zero", "mean", "patch", "add", "scale", "set")
WITH_MEANS = ("heads", "neurons", "resid_attn", "resid_mlp")
COMPONENTS = ("heads", "neurons")
FACTOR = -1.7
PIECE = [40, 41]  # stands once in every prompt, at other places from the left and from the right
SPAN = et.Span("w40 w41")
CHOICES = {
    "last": "last",
    "prompt": "prompt",
    "reply": "reply",
    "all": "all",
    "indices": (1, -1, -3),
    "span": SPAN,
    "generated": "generated",
    "reply and later": "reply",  # with other values at reply tokens fed back
    "all and later": "all",
}
TOKENS = [*CHOICES.values()][:6]  # those in the prompt
PROMPTS = [[10, *PIECE, 12, 13], [20, 21, 22, *PIECE, 25, 26, 27], [30, 31, 32, *PIECE, 33]]
SOURCES = [[50, 51, *PIECE, 52, 53], [54, *PIECE, 55, 56, 57, 58], [*PIECE, 59, 60, 61]]
CONDITIONS = ("calm", "loud")
SAMPLES = [
    et.Sample(0, tuple(SOURCES[0]), (15, 16)),
    et.Sample(1, tuple(SOURCES[1]), (17,)),
    et.Sample(1, tuple(SOURCES[2]), (18, 19, 17)),
]
MEANS = ((None, "last"), ("loud", "last"), ("loud", "reply"), (None, "reply"))  # chosen in turn

named = cache(lambda family: tiny_model(family))
plain = cache(lambda family: tiny_hf(family))  # another instance, so that nothing of nnsight's can reach the reference
sources = cache(lambda family: [activations(plain(family), ids) for ids in SOURCES])
statistics = cache(lambda family: et.capture(named(family), SAMPLES, CONDITIONS))


@dataclass(frozen=True)
class Case:
    """What to do, and for each row the same in the reference's words."""

    plan: et.Plan
    rows: tuple[tuple[HookEdit, ...], ...]

    def __add__(self, other: "Case") -> "Case":
        return Case(self.plan + other.plan, tuple(a + b for a, b in zip(self.rows, other.rows, strict=True)))

    def contact(self, row: int, new: int) -> int:
        """(operation, step) pairs of a row that got ``new`` tokens, the last of which is never fed back.

        An operation is what is done in one go: edits of one site and layer that follow each other at the same tokens.
        """
        passes = {"generated": new - 1, "reply": new, "all": new}  # and one, the prompt's, for all other words
        places: dict[Any, list[Any]] = {}
        for edit in self.rows[row]:
            at = places.setdefault((edit.site, edit.layer), [])
            if not at or at[-1] != edit.tokens:
                at.append(edit.tokens)
        return sum(passes.get(tokens, 1) for at in places.values() for tokens in at)


def can(family: str, kind: str, site: str) -> bool:
    """Whether the family has the site and the site takes the edit."""
    if site == "neurons" and family in MIXTURES:
        return False
    if site == "resid_attn" and family == PARALLEL and kind != "add":
        return False
    return kind != "mean" or site in WITH_MEANS


def marked(*values: Any, fast: bool, name: str | None = None) -> Any:
    return pytest.param(*values, marks=() if fast else pytest.mark.slow, id=name)


FAMILY = [marked(family, fast=family in QUICK) for family in FAMILIES]
LONG = [marked(family, fast=family == "gemma2") for family in FAMILIES]


def grid(*, every: int, fast_every: int) -> list[Any]:
    """(family, kind, site, names of CHOICES): a diagonal in the fast suite, the others in the slow one.

    A fast case makes one choice of tokens, for every ``fast_every``-th pair of kind and site; other than quick
    families have one kind for each site. The slow cases make every ``every``-th choice. Families take turns, so that
    each pair and choice is some family's. Choices called later are for ``add`` alone.
    """
    params = []
    for f, family in enumerate(FAMILIES):
        for (k, kind), (s, site) in itertools.product(enumerate(KINDS), enumerate(SITES)):
            if not can(family, kind, site):
                continue
            choices = [name for name in CHOICES if kind == "add" or "later" not in name]
            first = choices[(f + k + s) % len(choices)]
            fast = (family in QUICK or (k - s - f) % len(KINDS) == 0) and (f + s + k // 2) % fast_every == 0
            if fast:
                name = f"{family}-{kind}-{site}-{first}"
                params.append(marked(family, kind, site, (first,), fast=True, name=name))
            rest = tuple(c for c in choices[(f + k + s) % every :: every] if not fast or c != first)
            params.append(marked(family, kind, site, rest, fast=False, name=f"{family}-{kind}-{site}"))
    return params


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def width(family: str, site: str) -> int:
    """Of one component, from the weights."""
    hf = plain(family)
    out = module_at(module_at(hf, layout_of(hf).blocks)[0], layout_of(hf).out_proj).weight
    return {"heads": out.numel() // 32 // 4, "neurons": 1}.get(site, 32)  # Conv1D's weight is the other way up


def located(tokens: Any, prompt: Sequence[int]) -> Any:
    """``tokens`` with a span as indices: PIECE is the only one there is."""
    if not isinstance(tokens, et.Span):
        return tokens
    start = next(i for i in range(len(prompt)) if list(prompt[i : i + 2]) == PIECE)
    return tuple(range(start, start + 2))


def keys_of(site: str, layer: int, kind: str = "") -> list[Any]:
    """Some components of the layer, out of order, or the layer; of neurons so many that replies change."""
    some = {"heads": [3, 1], "neurons": [*range(39, 3, -1 if kind == "zero" else -4)]}.get(site)
    return [layer] if some is None else [(layer, i) for i in some]


def case(
    family: str,
    kind: str,
    site: str,
    tokens: Any,
    *,
    layer: int | None = None,
    keys: Sequence[Any] | None = None,
    dims: tuple[int, ...] | None = None,
    per_row: bool = False,
    later: bool = False,
    turn: int = 0,
    size: float = 3.0,
    prompts: Sequence[Sequence[int]] = PROMPTS,
) -> Case:
    """One edit of some components of a site.

    Args:
        keys: (layer, index) pairs, or layers; by default :func:`keys_of` ``layer``.
        per_row: ``set`` and ``add`` get other values in every row.
        later: ``add`` gets other values at reply tokens fed back.
        turn: chooses condition and place of a mean.
        size: of the values of ``set`` and ``add``.
    """
    if layer is None:  # not the last, where an edit shows at its own token only
        # what a token's embedding alone decides, as in a parallel block 0, is the same in the source of a patch
        layer = 1 if kind == "patch" else (KINDS.index(kind) + SITES.index(site)) % 2
    keys = keys_of(site, layer, kind) if keys is None else list(keys)
    where = [located(tokens, prompt) for prompt in prompts]
    options = {"tokens": tokens} | ({} if dims is None else {"dims": dims})
    wide = len(dims) if dims is not None else width(family, site)
    shape = (*([len(where[0])] if isinstance(where[0], tuple) else []), *([] if site == "neurons" else [wide]))
    if per_row:
        shape = (len(prompts), *(shape if isinstance(where[0], tuple) else (1, *shape)))

    def written(plan: et.Plan, kind: str, values: Any = None, after: Any = None) -> Case:
        def edit(row: int, number: int, key: Any) -> HookEdit:
            at, index = key if isinstance(key, tuple) else (key, None)
            value, late = (v and v[number][row] for v in (values, after))
            return HookEdit(kind, site, at, index, dims, value, late, where[row])

        rows = range(len(prompts))
        return Case(plan, tuple(tuple(edit(r, n, key) for n, key in enumerate(keys)) for r in rows))

    def drawn(seed: int) -> tuple[dict[Any, torch.Tensor], list[list[torch.Tensor]]]:
        """Values by component, and for each component those of each row."""
        given = {key: size * random(*shape, seed=seed + n) for n, key in enumerate(keys)}
        each = [[v[r] if per_row else v for r in range(len(prompts))] for v in given.values()]
        if per_row and not isinstance(where[0], tuple):
            each = [[v[0] for v in values] for values in each]
        return given, each

    if kind == "zero":
        return written(et.zero(**{site: keys}, **options), "zero")
    if kind == "scale":
        factors = [[FACTOR] * len(prompts)] * len(keys)
        return written(et.scale(FACTOR, **{site: keys}, **options), "scale", factors)
    if kind == "set":
        given, each = drawn(1)
        return written(et.set(given, site, **options), "set", each)
    if kind == "add":
        given, each = drawn(11)
        late, later_each = drawn(21) if later else (None, None)
        plan = et.add(given, site, strength=0.5, later=late, **options)
        return written(
            plan,
            "add",
            [[0.5 * v for v in values] for values in each],
            later_each and [[0.5 * v for v in values] for values in later_each],
        )
    if kind == "mean":
        condition, place = MEANS[turn % len(MEANS)]
        plan = et.mean(statistics(family), condition=condition, place=place, **{site: keys}, tokens=tokens)
        return written(plan, "set", [[mean_of(family, condition, place, site, key)] * len(prompts) for key in keys])
    recorded = tokens if isinstance(where[0], tuple) else "last"
    found = et.record(named(family), SOURCES[: len(prompts)], tokens=recorded, **{site: keys})
    plan = et.patch(found, **{site: keys}, **options)
    return written(
        plan, "set", [[source_of(family, r, site, k, recorded, dims) for r in range(len(prompts))] for k in keys]
    )


def source_of(family: str, row: int, site: str, key: Any, tokens: Any, dims: Any = None) -> torch.Tensor:
    """What a component does in a source prompt: at the last token, or ``[P, W]`` at indices or the span."""
    values = part(sources(family)[row][site], key)
    chosen = values[-1] if tokens == "last" else values[list(located(tokens, SOURCES[row]))]
    return chosen if dims is None else chosen[..., list(dims)]


def part(values: torch.Tensor, key: Any) -> torch.Tensor:
    """``[T, W]`` of one component, or ``[T]`` of a neuron, out of a site's ``[L, T, ...]``."""
    return values[key[0]][:, key[1]] if isinstance(key, tuple) else values[key]


@cache
def sample_states(family: str) -> list[dict[str, torch.Tensor]]:
    return [activations(plain(family), [*s.prompt, *s.reply]) for s in SAMPLES]


def mean_of(family: str, condition: str | None, place: str, site: str, key: Any) -> torch.Tensor:
    """Mean over samples of the last prompt token, or of each reply's mean."""
    chosen = []
    for sample, states in zip(SAMPLES, sample_states(family), strict=True):
        if condition is None or CONDITIONS[sample.condition] == condition:
            values, n = part(states[site], key), len(sample.prompt)
            chosen.append(values[n - 1] if place == "last" else values[n:].mean(0))
    return torch.stack(chosen).mean(0)


def padded(prompts: Sequence[Sequence[int]], *, right: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask ``[B, T]``."""
    longest = max(map(len, prompts))
    gaps = [[0] * (longest - len(ids)) for ids in prompts]
    kept = [[1] * len(ids) for ids in prompts]
    join = (lambda gap, held: held + gap) if right else (lambda gap, held: gap + held)
    pairs = zip(gaps, prompts, kept, strict=True)
    both = [(join(gap, list(ids)), join(gap, ones)) for gap, ids, ones in pairs]
    return torch.tensor([ids for ids, _ in both]), torch.tensor([mask for _, mask in both])


def traced(
    model: Any, plan: Any, prompts: Sequence[Sequence[int]] = PROMPTS, *, right: bool = False, masked: bool = True
) -> list[torch.Tensor]:
    """Logits ``[T, V]`` of each row without its padding, from a batch edited in the user's own trace."""
    ids, mask = padded(prompts, right=right)
    seen = mask if masked else None
    with model.trace(ids, attention_mask=mask, use_cache=False):
        with torch.no_grad():
            et.apply(model, plan, attention_mask=seen, input_ids=ids)
            logits = model.output.logits.clone().save()
    return [row[kept.bool()] for row, kept in zip(logits, mask, strict=True)]


def joined(cases: Sequence[Case]) -> Case:
    return sum(cases[1:], cases[0])


def many(family: str, *, prompts: Sequence[Sequence[int]] = PROMPTS, choices: Sequence[Any] = TOKENS) -> list[Case]:
    """Edits of all three layers, at all sites; several of one place, at the same tokens and at others between."""
    kinds = ("add", "scale", "set", "add", "zero", "add")
    cases = []
    for turn, (kind, site) in enumerate(zip(kinds, SITES, strict=True)):
        kind = kind if can(family, kind, site) else "add"
        if can(family, kind, site):
            cases.append(case(family, kind, site, choices[turn % 5], layer=2 - turn % 3, prompts=prompts))
            cases.append(case(family, "add", site, choices[(turn + 4) % 6], layer=turn % 3, prompts=prompts))
    some = partial(case, family, prompts=prompts)
    return [
        *reversed(cases),  # the order of execution is another
        some("add", "mlp_out", (0, 1, -1), layer=1, dims=(4, 7)),
        some("scale", "mlp_out", (0, 1, -1), layer=1, dims=(7, 9, 2)),
        some("zero", "mlp_out", "prompt", layer=1, dims=(4,)),
        some("set", "mlp_out", (0, 1, -1), layer=1, dims=(4, 2)),
        some("scale", "mlp_out", "prompt", layer=1, dims=(2,)),
        some("scale", "heads", "all", keys=[(1, 0), (1, 3)]),
        some("zero", "heads", "all", keys=[(1, 3)], dims=(0, 1)),
        some("add", "heads", "all", keys=[(1, 2), (1, 3), (2, 0), (0, 1)]),
    ]
