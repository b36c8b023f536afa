"""Component scores behind a norm: the pass over prompts that they need, since a norm is not linear.

Where a norm lies between a projection and the residual stream, or scores are read after the norm that feeds the MLP,
the fall of a projection when a component is zeroed depends on each prompt's states and on the directions, so means of
activations do not suffice. Everything is reduced to sums over prompts inside the trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import nnsight
import torch

from emotrace.errors import DataError, ModelError
from emotrace.formulas.norms import normalised, normed_falls
from emotrace.ledger import Ledger, Sums
from emotrace.models.architectures import submodule
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.prefixes import continued, split
from emotrace.trace.reduce import accumulated, by_site
from emotrace.trace.requests import Batches, folded
from emotrace.trace.sites import taken
from emotrace.trace.variants import check_readout

if TYPE_CHECKING:
    from emotrace.models.traced import Model


def normed_scores(
    model: Model,
    prompts: Sequence[Sequence[int]],
    emotions: Sequence[int],
    directions: torch.Tensor,
    *,
    readout: str = "residual",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> dict[str, torch.Tensor]:
    """Mean fall at the last token, over each emotion's prompts, when a component is zeroed (README, The method).

    Args:
        model: any model; its weights must be where it runs, none offloaded.
        prompts: token ids, N of them.
        emotions: N indices into the first axis of ``directions``; every emotion needs a prompt.
        directions: ``[E, L, 2, D]``.
        readout: ``residual``, or ``normed``: heads are read after the norm that feeds the MLP.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.

    Returns:
        ``heads`` float64 ``[E, L, H]`` and, where a norm follows the MLP, ``neurons`` ``[E, L, F]``.

    Raises:
        DataError: an emotion without prompts.
        ModelError: the family has no such readout, or weights are offloaded.
    """
    check_readout(model, readout)
    counts = torch.bincount(torch.tensor(emotions, dtype=torch.int64), minlength=len(directions))
    if not bool(counts.all()):
        raise DataError("every emotion needs at least one prompt to be scored on")

    def work(batches: Batches) -> Sums:
        chosen = [([prompts[row] for row in rows], [emotions[row] for row in rows]) for rows in batches]
        return _sums(model, chosen, directions, readout)

    sums = folded(model, f"scores_{readout}", [len(ids) for ids in prompts], batch_tokens, work, ledger)
    return {site: total / counts[:, None, None] for site, total in sums.items()}


def _sums(
    model: Model,
    batches: Sequence[tuple[Sequence[Sequence[int]], Sequence[int]]],
    directions: torch.Tensor,
    readout: str,
) -> Sums:
    """Falls of each emotion, ``[E, L, K]`` per site, summed over the prompts of all batches."""
    inputs, tokens = [], 0
    for prompts, emotions in batches:
        batch = split(model, prompts)
        at = (torch.arange(len(prompts)), torch.full((len(prompts),), batch.ids.shape[1] - 1))
        owner = torch.nn.functional.one_hot(torch.tensor(emotions), len(directions)).double()
        inputs.append((*batch.inputs(model.device), at, owner))
        tokens += batch.tokens
    parts = [_parts(model, layer, readout) for layer in range(model.sizes.layers)]
    layers: list[dict[str, torch.Tensor]] = []
    with model.lock, model.session():
        for head, pick, ids, given, at, owner in inputs:
            vectors = torch.einsum("ne,elpd->lnpd", owner, directions)
            given = continued(model, head, pick, given)
            with model.trace(ids, **given, logits_to_keep=1):
                with torch.no_grad():
                    found = []
                    for layer, part in enumerate(parts):
                        read = states_of(part, at)
                        falls = falls_of(part, read, vectors[layer])
                        found.append({site: owner.T.to(fall.device) @ fall for site, fall in falls.items()})
            layers = accumulated(layers, found)
        sums = nnsight.save(by_site(layers))
    model.count(score_tokens=tokens)
    found_sums: Sums = sums
    return found_sums


def _parts(model: Model, layer: int, readout: str) -> dict[str, Any]:
    """What one layer's scores need, as plain data and nnsight modules."""
    row, block = model.architecture, model.blocks[layer]

    def norm(path: str | None) -> tuple[Any, float, str, bool] | None:
        return None if path is None else (submodule(block, path), row.norm.gain_offset, row.norm.eps, row.norm.centred)

    down_proj = model.down_proj[layer] if row.mlp_norm and model.down_proj else None
    for projection in (model.out_proj[layer], down_proj):
        if projection is not None and not model.remote and projection._module.weight.is_meta:
            raise ModelError(
                f"layer {layer} of {model.identity!r} has its weights off this device, and scores behind a norm "
                "need them; load the model whole, or use causal_scores"
            )
    return {
        "out_proj": model.out_proj[layer],
        "down_proj": down_proj,
        "middle": model.middle[layer] if readout == "normed" else None,
        "attn_norm": norm(row.attn_norm),
        "mlp_norm": norm(row.mlp_norm),
        "mid_norm": norm(row.mid_norm) if readout == "normed" else None,
        "heads": model.sizes.shape("heads"),
        "transposed": row.transposed,
    }


def states_of(part: dict[str, Any], at: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the falls of one layer are computed from, at (rows, columns), in order of execution."""
    states = {"heads": taken(part["out_proj"].input, at)}
    if part["attn_norm"] is not None:
        states["attn"] = taken(part["out_proj"].output, at)
    if part["mid_norm"] is not None:
        states["stream"] = taken(part["middle"].input, at)
    if part["mlp_norm"] is not None and part["down_proj"] is not None:
        states["neurons"] = taken(part["down_proj"].input, at)
        states["mlp"] = taken(part["down_proj"].output, at)
    return states


def falls_of(part: dict[str, Any], states: dict[str, torch.Tensor], vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Falls of each prompt, float64: ``heads [N, H]`` and, behind a norm, ``neurons [N, F]``.

    Args:
        part: one layer's.
        states: from :func:`states_of`.
        vectors: ``[N, 2, D]``, each prompt's directions.
    """
    values = states["heads"]
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32

    def parameter(module: Any) -> torch.Tensor:
        held: torch.Tensor | None = getattr(module, "weight", None)
        if held is None:
            raise ModelError(
                "this server runs blocks apart from the weights, and scores behind a norm need them; ask its owners "
                "for a trusted key, or use causal_scores"
            )
        return held.detach()

    def weight(projection: Any) -> torch.Tensor:
        held = parameter(projection)
        return (held.T if part["transposed"] else held).to(dtype)

    def parameters(named: tuple[Any, float, str, bool]) -> tuple[torch.Tensor, float, bool]:
        module, offset, eps, centred = named
        return parameter(module).to(dtype) + offset, float(getattr(module, eps)), centred

    def moved(x: torch.Tensor, by: torch.Tensor, named: tuple[Any, float, str, bool]) -> torch.Tensor:
        gain, eps, centred = parameters(named)
        before = normalised(x, gain, eps, centred=centred)
        return before - normalised(x - by, gain, eps, centred=centred)

    # A server of half-precision weights runs blocks under autocast, which would round these products.
    with torch.autocast(values.device.type, enabled=False):
        along = vectors.to(values.device, dtype)
        by_head = weight(part["out_proj"]).unflatten(-1, part["heads"])
        change = torch.einsum("nhk,dhk->nhd", values.to(dtype).unflatten(-1, part["heads"]), by_head)
        if part["attn_norm"] is not None:
            change = moved(states["attn"].to(dtype)[:, None], change, part["attn_norm"])
        if part["mid_norm"] is not None:
            change = moved(states["stream"].to(dtype)[:, None], change, part["mid_norm"])
        found = {"heads": torch.einsum("nhd,nd->nh", change, along[:, 0]).double()}
        if "neurons" in states:
            gain, eps, centred = parameters(part["mlp_norm"])
            output, activations = states["mlp"].to(dtype), states["neurons"].to(dtype)
            found["neurons"] = normed_falls(
                output, activations, weight(part["down_proj"]), along[:, 1], gain, eps, centred=centred
            )
    return found
