"""Gradients at every neuron and head from one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import nnsight
import torch

from emotrace.errors import DataError, ModelError
from emotrace.ledger import Ledger, Sums
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS, pad_left
from emotrace.trace.requests import Batches, folded
from emotrace.trace.sites import Place, place, value
from emotrace.trace.suffix import READOUTS

if TYPE_CHECKING:
    from emotrace.models.traced import Model

Metric = Callable[[torch.Tensor], torch.Tensor]
"""From the last token's logits ``[B, V]`` to one number for each row, ``[B]``, or from those of one prompt, ``[1, V]``,
to one number, ``[]``."""

TOKENS = ("last", "prompt")


def component_gradients(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    metric: Metric | None = None,
    reference: torch.Tensor | None = None,
    readout: str = "final_norm",
    tokens: str = "last",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
    name: str = "gradients",
) -> dict[str, torch.Tensor]:
    """Mean gradient over prompts of G targets with respect to every neuron and head output.

    One forward pass and G backward passes for each batch; G is 1 for a metric.

    Args:
        model: any model.
        prompts: token ids, N of them.
        metric: of the logits; what is one number is asked for prompt by prompt, so that batches do not matter.
        reference: ``[G, D]``: in place of a metric, projections of the last token's final state.
        readout: for ``reference``: ``final_norm`` (after the final norm) or ``residual``.
        tokens: gradients at the ``last`` prompt token, or summed over the ``prompt``.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.
        name: the ledger's name for this work.

    Returns:
        ``heads`` float64 ``[G, L, H, d]`` and ``neurons`` ``[G, L, F]`` (F is 0 for a mixture of experts).

    Raises:
        DataError: no prompts, neither or both of metric and reference, an unknown word, or a metric of another shape.
    """
    if not prompts:
        raise DataError("gradients need at least one prompt")
    if (metric is None) == (reference is None) or not (metric is None or callable(metric)):
        raise DataError("give a metric, a function of the logits, or a reference")
    if tokens not in TOKENS or readout not in READOUTS:
        raise DataError(f"choose tokens from {TOKENS} and readout from {READOUTS}, got {tokens!r} and {readout!r}")

    def work(batches: Batches) -> Sums:
        return _sums(model, [[prompts[row] for row in rows] for rows in batches], metric, reference, readout, tokens)

    sums = folded(model, name, [len(ids) for ids in prompts], batch_tokens, work, ledger)
    shape = model.sizes.shape("heads")
    return {"heads": sums["heads"].unflatten(-1, shape) / len(prompts), "neurons": sums["neurons"] / len(prompts)}


def measured(metric: Metric, logits: torch.Tensor) -> torch.Tensor:
    """The metric of every row, ``[B, 1]``."""
    values = metric(logits)
    if isinstance(values, torch.Tensor) and values.ndim == 0:
        values = torch.stack([metric(row[None]) for row in logits]) if len(logits) > 1 else values[None]
    if not isinstance(values, torch.Tensor) or tuple(values.shape) != (len(logits),):
        kind = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise DataError(f"the metric must give one number, or one for each row {(len(logits),)}, not {kind}")
    if not values.requires_grad:
        raise DataError("the metric has no gradient: keep it differentiable, without detach, argmax or item")
    return values[:, None]


def readout_gradients(
    model: Model, batches: Sequence[Sequence[Sequence[int]]], reference: torch.Tensor, readout: str
) -> torch.Tensor:
    """Gradient of ``readout . reference[e]`` with respect to what each sublayer adds at the last token.

    One backward pass per emotion gives all sublayers at once: the limit of
    :func:`emotrace.trace.suffix.injected_shifts` for vanishing size.

    Args:
        model: any model.
        batches: prompts of each batch, as token ids.
        reference: ``[E, D]``.
        readout: ``final_norm`` (after the final norm) or ``residual`` (in front of it).

    Returns:
        float64 ``[E, L, 2, D]``, summed over prompts.
    """
    places = [place(model, site, layer) for layer in range(model.sizes.layers) for site in ("attn_out", "mlp_out")]
    grads = _backward(model, batches, places, None, reference, readout, "last")
    model.count(influence_tokens=sum(len(ids) for prompts in batches for ids in prompts))
    return torch.stack(grads, 1).unflatten(1, (-1, 2))


def _sums(
    model: Model,
    batches: Sequence[Sequence[Sequence[int]]],
    metric: Metric | None,
    reference: torch.Tensor | None,
    readout: str,
    tokens: str,
) -> Sums:
    """Gradients summed over prompts, ``[G, L, W]`` per site."""
    places = [place(model, site, layer) for layer in range(model.sizes.layers) for site in model.sites]
    grads = _backward(model, batches, places, metric, reference, readout, tokens)
    model.count(gradient_tokens=sum(len(ids) for prompts in batches for ids in prompts))
    count = len(model.sites)
    found = {site: torch.stack(grads[n::count], 1) for n, site in enumerate(model.sites)}
    return {"neurons": found["heads"].new_zeros(*found["heads"].shape[:2], 0), **found}


def _backward(
    model: Model,
    batches: Sequence[Sequence[Sequence[int]]],
    places: Sequence[Place],
    metric: Metric | None,
    reference: torch.Tensor | None,
    readout: str,
    tokens: str,
) -> list[torch.Tensor]:
    """At every place, the gradients of G targets, float64 ``[G, W]`` on the CPU, summed over prompts and tokens."""
    inputs = []
    for prompts in batches:
        batch = pad_left(prompts, model.pad_token)
        keep = torch.zeros_like(batch.mask) if tokens == "last" else batch.mask.clone()
        keep[:, -1] = 1
        inputs.append(tuple(t.to(model.device) for t in (batch.ids, batch.mask, keep)))
    embeddings, final_norm = model.embeddings, model.final_norm
    along: Any = reference
    total: list[torch.Tensor] = []
    with model.lock, model.session():
        for ids, mask, keep in inputs:
            with model.trace(ids, attention_mask=mask, use_cache=False, logits_to_keep=1):
                with torch.enable_grad():
                    embeddings.output.requires_grad_(True)
                    sites = []
                    for at in places:
                        sites.append(value(at))
                    check_differentiable(sites)
                    if metric is not None:
                        targets = measured(metric, model.output.logits[:, -1])
                    else:
                        source = final_norm.output if readout == "final_norm" else final_norm.input
                        targets = source[:, -1] @ along.to(source).T
                    found = summed_gradients(targets, sites, keep)
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        grads = nnsight.save(total)
    summed: list[torch.Tensor] = grads
    return summed


def check_differentiable(sites: list[torch.Tensor]) -> None:
    """Raise ``ModelError`` where activations are copies, as in blocks that a server runs apart from its model."""
    if any(values.grad_fn is None for values in sites):
        raise ModelError(
            "this server runs blocks apart from the model, so there are no gradients; ask its owners for a trusted "
            "key, or use what needs none (method='exact', -p influence.gradient=false)"
        )


def summed_gradients(targets: torch.Tensor, sites: list[torch.Tensor], keep: torch.Tensor) -> list[torch.Tensor]:
    """Gradient of each column of ``targets [B, G]`` at every site ``[B, T, W]``, summed over the tokens to keep."""
    count = targets.shape[1]
    found = []
    for target in range(count):
        grads = torch.autograd.grad(targets[:, target].sum(), sites, retain_graph=target + 1 < count)
        found.append([torch.einsum("btw,bt->w", g.double(), keep.to(g.device, torch.float64)).cpu() for g in grads])
    return [torch.stack(each) for each in zip(*found, strict=True)]
