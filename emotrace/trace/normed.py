"""Component scores behind a norm: the pass over prompts that they need, since a norm is not linear.

Where a norm lies between a projection and the residual stream, or scores are read after the norm that feeds the MLP,
the fall of a projection when a component is zeroed depends on each prompt's states and on the directions, so means of
activations do not suffice. Everything is reduced to sums over prompts inside the trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nnsight
import torch

from emotrace.errors import DataError, ModelError
from emotrace.formulas.norms import normalised, normed_falls
from emotrace.ledger import Ledger, MemoryLedger, Sums, added
from emotrace.models.architectures import NormKind, submodule
from emotrace.models.traced import Model
from emotrace.trace.adapting import Adaptive
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS, pad_left, plan_batches
from emotrace.trace.sites import taken
from emotrace.trace.variants import check_readout


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
        model: any model whose weights are here.
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
        ModelError: the family has no such readout, or the weights are not on this machine.
    """
    check_readout(model, readout)
    counts = torch.bincount(torch.tensor(emotions, dtype=torch.int64), minlength=len(directions))
    if not bool(counts.all()):
        raise DataError("every emotion needs at least one prompt to be scored on")

    def work(rows: tuple[int, ...]) -> Sums:
        return _sums(model, [prompts[row] for row in rows], [emotions[row] for row in rows], directions, readout)

    lengths = [len(ids) for ids in prompts]
    adaptive = Adaptive(work, added, "scores", lengths=lengths)
    sums = (ledger or MemoryLedger()).fold(f"scores_{readout}", plan_batches(lengths, batch_tokens), adaptive)
    return {site: total / counts[:, None, None] for site, total in sums.items()}


def _sums(
    model: Model, prompts: Sequence[Sequence[int]], emotions: Sequence[int], directions: torch.Tensor, readout: str
) -> Sums:
    batch = pad_left(prompts, model.pad_token)
    ids, mask = batch.ids.to(model.device), batch.mask.to(model.device)
    device = model.device
    at = (torch.arange(len(prompts), device=device), torch.full((len(prompts),), ids.shape[1] - 1, device=device))
    owner = torch.nn.functional.one_hot(torch.tensor(emotions), len(directions)).T.double()
    vectors = directions[list(emotions)]
    layers = [_Layer.of(model, layer, vectors[:, layer], readout) for layer in range(model.sizes.layers)]
    with model.lock, model.trace(ids, attention_mask=mask, use_cache=False, logits_to_keep=1, remote=model.remote):
        with torch.no_grad():
            out = nnsight.save([])
            for layer in layers:
                out.append({site: owner.to(falls.device) @ falls for site, falls in layer.falls(at).items()})
    model.counters["score_tokens"] += int(batch.mask.sum())
    return {site: torch.stack([layer[site].cpu() for layer in out], 1) for site in out[0]}


@dataclass(frozen=True)
class _Norm:
    """A norm's parameters, in the dtype that scores are computed in."""

    gain: torch.Tensor
    eps: float
    centred: bool

    @classmethod
    def of(cls, module: Any, kind: NormKind, dtype: torch.dtype) -> "_Norm":
        gain = module.weight.detach().to(dtype) + kind.gain_offset
        return cls(gain, float(getattr(module, kind.eps)), kind.centred)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return normalised(x, self.gain, self.eps, centred=self.centred)


@dataclass(frozen=True)
class _Layer:
    """What one layer's scores need: modules to read, weights, norms, and each prompt's directions ``[N, 2, D]``."""

    out_proj: Any
    down_proj: Any
    middle: Any
    out_weight: torch.Tensor
    down_weight: torch.Tensor | None
    attn_norm: _Norm | None
    mlp_norm: _Norm | None
    mid_norm: _Norm | None
    directions: torch.Tensor
    heads: tuple[int, int]

    @classmethod
    def of(cls, model: Model, layer: int, directions: torch.Tensor, readout: str) -> "_Layer":
        row, block = model.architecture, model.blocks[layer]._module
        dtype = torch.float64 if model.dtype == torch.float64 else torch.float32

        def weight(envoy: Any) -> torch.Tensor:
            held = envoy._module.weight.detach()
            if held.is_meta:
                raise ModelError(
                    f"layer {layer} of {model.identity!r} has its weights off this device, and scores behind a norm "
                    "need them; load the model whole, or use causal_scores"
                )
            return held.T if row.transposed else held

        def norm(path: str | None) -> _Norm | None:
            return None if path is None else _Norm.of(submodule(block, path), row.norm, dtype)

        return cls(
            model.out_proj[layer],
            model.down_proj[layer] if row.mlp_norm and model.down_proj else None,
            model.middle[layer] if readout == "normed" else None,
            weight(model.out_proj[layer]),
            weight(model.down_proj[layer]) if row.mlp_norm and model.down_proj else None,
            norm(row.attn_norm),
            norm(row.mlp_norm),
            norm(row.mid_norm) if readout == "normed" else None,
            directions.to(model.device_of(layer), dtype),
            model.sizes.shape("heads"),
        )

    def falls(self, at: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Falls of each prompt, float64: ``heads [N, H]`` and, behind a norm, ``neurons [N, F]``. Inside a trace."""
        dtype = self.directions.dtype
        values = taken(self.out_proj.input, at).to(dtype).unflatten(-1, self.heads)
        weight = self.out_weight.to(dtype).unflatten(-1, self.heads)
        change = torch.einsum("nhk,dhk->nhd", values, weight)
        if self.attn_norm is not None:
            output = taken(self.out_proj.output, at).to(dtype)[:, None]
            change = self.attn_norm(output) - self.attn_norm(output - change)
        if self.mid_norm is not None:
            stream = taken(self.middle.input, at).to(dtype)[:, None]
            change = self.mid_norm(stream) - self.mid_norm(stream - change)
        found = {"heads": torch.einsum("nhd,nd->nh", change, self.directions[:, 0]).double()}
        if self.mlp_norm is not None and self.down_weight is not None:
            activations = taken(self.down_proj.input, at).to(dtype)
            output = taken(self.down_proj.output, at).to(dtype)
            norm = self.mlp_norm
            found["neurons"] = normed_falls(
                output,
                activations,
                self.down_weight.to(dtype),
                self.directions[:, 1],
                norm.gain,
                norm.eps,
                centred=norm.centred,
            )
        return found
