"""Activations of named components, token by token, to be looked at or patched into another run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nnsight
import torch

from emotrace.artifacts import Artifact
from emotrace.data.prompts import Prompt
from emotrace.errors import PlanError, shown
from emotrace.models.load import as_model
from emotrace.models.traced import Model
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS, pad_left, plan_batches
from emotrace.trace.inputs import check_prompts
from emotrace.trace.plan import Component, Edit, Plan, by_layer
from emotrace.trace.sites import COMPONENT_SITES, SITES, reading, values_at
from emotrace.trace.tokens import Span, Tokens, check_tokens, locate


@dataclass(frozen=True)
class Activations(Artifact):
    """What named components did at some tokens of N prompts.

    Attributes:
        positions: int64 ``[N, P]``, the tokens, counted from the right of each prompt (-1 is the last).
        components: per site, K (layer, index) pairs, or K layers at sites without components.
        values: per site ``[N, P, K, W]`` in the model's dtype.
    """

    positions: torch.Tensor
    components: Mapping[str, tuple[Any, ...]]
    values: Mapping[str, torch.Tensor]

    def of(self, site: str, component: Any) -> torch.Tensor:
        """One component's values, as :func:`emotrace.set` takes them.

        ``[P, W]`` for one prompt, ``[N, P, W]`` for several; a neuron has no last axis.
        """
        if component not in self.components.get(site, ()):
            raise PlanError(f"{site} {component} was not recorded; recorded were {self.components.get(site, ())}")
        picked = self.values[site][:, :, self.components[site].index(component)]
        picked = picked[..., 0] if site == "neurons" else picked
        return picked[0] if len(picked) == 1 else picked

    def shared_tokens(self) -> tuple[int, ...]:
        """The recorded tokens, where they are the same in every prompt; else ``PlanError``."""
        if not bool((self.positions == self.positions[:1]).all()):
            raise PlanError(
                "the recorded tokens differ between prompts, counted from the right; name them with tokens="
            )
        return tuple(self.positions[0].tolist())


def record(
    model: Any,
    prompts: Sequence[Prompt | str | Sequence[int]],
    *,
    tokens: Tokens = "prompt",
    heads: Iterable[Component] = (),
    neurons: Iterable[Component] = (),
    attn_out: Iterable[int] = (),
    resid_attn: Iterable[int] = (),
    mlp_out: Iterable[int] = (),
    resid_mlp: Iterable[int] = (),
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Activations:
    """Record components at some tokens of each prompt, for :func:`emotrace.patch`.

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        prompts: rendered texts, prompts, or lists of token ids; N of them.
        tokens: ``last``, ``prompt``, indices, or a ``Span``: as many tokens in every prompt.
        heads: (layer, head) pairs.
        neurons: (layer, neuron) pairs.
        attn_out: layers: what attention adds to the residual stream.
        resid_attn: layers: the residual stream after that.
        mlp_out: layers: what the MLP adds to the residual stream.
        resid_mlp: layers: the residual stream after that.
        batch_tokens: token budget of a batch.

    >>> import emotrace as et
    >>> seen = et.record(et.load("bundled"), ["<|user|>Yuki broke the lamp."], tokens="last", heads=[(4, 0), (4, 1)])
    >>> seen.values["heads"].shape, seen.shared_tokens()
    (torch.Size([1, 1, 2, 16]), (-1,))

    Raises:
        PlanError: no component was named, one that the model lacks, or another number of tokens in some prompt.
    """
    wrapped = as_model(model)
    if isinstance(prompts, str | Prompt) or not isinstance(prompts, Sequence | torch.Tensor):
        raise PlanError(f"record takes a list of prompts; put the one prompt in a list (got {shown(prompts)})")
    ids = check_prompts(wrapped, [wrapped.encode([p])[0] if isinstance(p, str | Prompt) else p for p in prompts])
    if not ids:
        raise PlanError("record needs at least one prompt")
    given = {"heads": heads, "neurons": neurons, "attn_out": attn_out, "resid_attn": resid_attn}
    given |= {"mlp_out": mlp_out, "resid_mlp": resid_mlp}
    wanted = {site: held for site in SITES if (held := by_layer(given[site], site))}
    if not wanted:
        raise PlanError("name what to record: heads=, neurons=, attn_out=, resid_attn=, mlp_out= or resid_mlp=")
    # a plan that does nothing names the same components, so its check is theirs
    Plan(tuple(Edit(site, *named) for site, held in wanted.items() for named in held.items())).check(wrapped)
    positions = [_positions(wrapped, prompt, tokens) for prompt in ids]
    if len({len(row) for row in positions}) > 1:
        raise PlanError(f"tokens={tokens!r} are {sorted({len(row) for row in positions})} tokens in different prompts")
    parts: dict[int, dict[str, torch.Tensor]] = {}
    for rows in plan_batches([len(prompt) for prompt in ids], batch_tokens):
        values = _record_batch(wrapped, [ids[row] for row in rows], [positions[row] for row in rows], wanted)
        parts |= {row: {site: found[at] for site, found in values.items()} for at, row in enumerate(rows)}
    return Activations(
        torch.tensor(positions),
        {
            site: tuple((layer, i) for layer, index in held.items() for i in index)
            if site in COMPONENT_SITES
            else (*held,)
            for site, held in wanted.items()
        },
        {site: torch.stack([parts[row][site] for row in range(len(ids))]) for site in wanted},
    )


def _positions(model: Model, prompt: Sequence[int], tokens: Tokens) -> list[int]:
    """Tokens of one prompt, counted from the right."""
    check_tokens(tokens)
    n = len(prompt)
    if isinstance(tokens, Span):
        return [*locate(model, prompt, tokens)]
    if isinstance(tokens, tuple):
        if not all(-n <= i < n for i in tokens):
            raise PlanError(f"token indices {tokens} lie outside a prompt of {n} tokens")
        found = [i if i < 0 else i - n for i in tokens]
        if len(set(found)) < len(found):
            raise PlanError(f"token indices {tokens} name a token twice in a prompt of {n} tokens")
        return found
    if tokens not in ("last", "prompt"):
        raise PlanError(f"a prompt has no {tokens!r} tokens; record at 'last', 'prompt', indices or a Span")
    return [*range(-1 if tokens == "last" else -n, 0)]


def _record_batch(
    model: Model,
    prompts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    wanted: Mapping[str, Mapping[int, tuple[int, ...]]],
) -> dict[str, torch.Tensor]:
    """Values ``[B, P, K, W]`` per site, K in the order of ``wanted``."""
    batch = pad_left(prompts, model.pad_token)
    ids, mask = batch.ids.to(model.device), batch.mask.to(model.device)
    at = (torch.arange(len(prompts))[:, None], batch.ids.shape[1] + torch.tensor(positions))
    layers = sorted({layer for held in wanted.values() for layer in held})
    readings = [reading(model, layer, [site for site in wanted if layer in wanted[site]]) for layer in layers]
    with model.lock, model.trace(ids, attention_mask=mask, use_cache=False, logits_to_keep=1):
        with torch.no_grad():
            out = nnsight.save([])
            for read in readings:
                out.append(values_at(read, at))
    model.count(recorded_tokens=int(batch.mask.sum()))
    seen = dict(zip(layers, out, strict=True))
    values = {}
    for site, held in wanted.items():
        parts = []
        for layer, index in held.items():
            whole = seen[layer][site].cpu().unflatten(-1, model.sizes.shape(site))
            parts.append(whole[:, :, list(index)] if index else whole)
        values[site] = torch.cat(parts, 2)
    return values
