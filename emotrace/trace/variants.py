"""Many zeroings in one forward pass: rows of a batch that differ only in the component they lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import nnsight
import torch

from emotrace.errors import ModelError
from emotrace.ledger import Ledger, Sums
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.requests import Batches, folded
from emotrace.trace.sites import place, reading, value

if TYPE_CHECKING:
    from emotrace.models.traced import Model

READOUTS = ("residual", "normed")


def check_readout(model: Model, readout: str) -> None:
    """Raise ``ModelError`` unless scores of this model's heads can be read in the way asked for."""
    row = model.architecture
    if readout not in READOUTS:
        raise ModelError(f"unknown readout {readout!r}: choose {' or '.join(READOUTS)}")
    if readout == "normed" and row.parallel:
        raise ModelError(
            f"readout='normed' needs a residual stream between attention and MLP; {row.name} runs them in parallel and "
            "has none. Use readout='residual'"
        )
    if readout == "normed" and not model.mid_norm:
        raise ModelError(
            f"readout='normed' needs a norm that feeds the MLP; {row.name} has none. Use readout='residual'"
        )


def zeroing_falls(
    model: Model,
    prompts: Sequence[Sequence[int]],
    owners: Sequence[int],
    site: str,
    components: Mapping[int, Sequence[int]],
    directions: torch.Tensor,
    *,
    readout: str = "residual",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> dict[int, torch.Tensor]:
    """Fall of the residual stream's projection on a direction when single components are zeroed, summed over prompts.

    A component is really zeroed, at every token, in a row of a batch that holds an unedited row too, and the residual
    stream is read after the sublayer's add, at the last token.

    Args:
        model: any model.
        prompts: token ids; rows of a batch belong to one prompt, so nothing is padded.
        owners: index of each prompt into the first axis of ``directions``.
        site: ``heads`` or ``neurons``.
        components: K indices per layer.
        directions: ``[E, L, D]``.
        readout: ``residual``, or for heads ``normed``: after the norm that feeds the MLP.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.

    Returns:
        float64 ``[E, K]`` per layer, sums over each owner's prompts.

    Raises:
        ModelError: the model has no such site or readout.
    """
    check_readout(model, readout)
    if site not in model.sites:
        raise ModelError(f"{model.architecture.name} has no {site} as a site; it has {', '.join(model.sites)}")
    if readout == "normed" and site != "heads":
        raise ModelError("readout='normed' is for heads: what neurons write comes after that norm")
    named = [(layer, index) for layer, indices in components.items() for index in indices]
    if not named:
        return {}
    rows = [(n, layer, at) for n in range(len(prompts)) for at, (layer, _) in enumerate(named)]

    def work(batches: Batches) -> Sums:
        groups = [
            (owners[n], prompts[n], layer, [at for _, _, at in group])
            for batch in batches
            for (n, layer), group in groupby((rows[row] for row in batch), key=lambda row: row[:2])
        ]
        return {"falls": _falls(model, groups, site, named, directions, readout)}

    lengths = [len(prompts[n]) for n, _, _ in rows]
    total = folded(model, f"causal_{site}", lengths, batch_tokens, work, ledger)["falls"]
    layers = torch.tensor([layer for layer, _ in named])
    return {layer: total[:, layers == layer] for layer in components}


def _falls(
    model: Model,
    groups: Sequence[tuple[int, Sequence[int], int, list[int]]],
    site: str,
    named: Sequence[tuple[int, int]],
    directions: torch.Tensor,
    readout: str,
) -> torch.Tensor:
    """Falls ``[E, len(named)]``, summed over groups: (owner, prompt, layer, positions in ``named``)."""
    stream = "resid_attn" if site == "heads" else "resid_mlp"
    early = not model.remote  # a sandboxed server of ndif 0.1.2 loses step when traces of a session stop early
    inputs = []
    for owner, prompt, layer, chosen in groups:
        ids = torch.tensor([[*prompt]] * (len(chosen) + 1), device=model.device)
        gone = torch.zeros(len(chosen) + 1, 1, *model.sizes.shape(site), dtype=torch.bool)
        gone[torch.arange(len(chosen)), 0, [named[at][1] for at in chosen]] = True
        places, block = reading(model, layer, [stream])
        after = places[stream] if readout == "residual" else (model.mid_norm[layer], "output")
        inputs.append((owner, chosen, ids, gone.flatten(2), place(model, site, layer), block, after, layer))
    with model.lock, model.session():
        total = torch.zeros(len(directions), len(named), dtype=torch.float64)
        for owner, chosen, ids, gone, edited, block, after, layer in inputs:
            mask = torch.ones_like(ids)
            with model.trace(ids, attention_mask=mask, use_cache=False, logits_to_keep=1) as tracer:
                with torch.no_grad():
                    start = 0.0 if block is None else block.input[:, -1].clone()
                    values = value(edited)
                    values[:] = values.masked_fill(gone.to(values.device), 0)
                    state = (start + value(after)[:, -1]).double()
                    projected = (state @ directions[owner, layer].to(state)).cpu()
                    if early:
                        tracer.stop()
            total[owner, chosen] += projected[-1] - projected[:-1]
        falls = nnsight.save(total)
    model.count(causal_tokens=sum(ids.numel() for _, _, ids, *_ in inputs))
    found: torch.Tensor = falls
    return found
