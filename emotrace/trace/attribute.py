"""Gradients at every neuron and head from one backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import nnsight
import torch

from emotrace.errors import DataError
from emotrace.ledger import Ledger, MemoryLedger, Sums, added
from emotrace.models.traced import Model
from emotrace.trace.adapting import Adaptive
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS, pad_left, plan_batches
from emotrace.trace.sites import Place, place, value
from emotrace.trace.suffix import READOUTS

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

    def work(rows: tuple[int, ...]) -> Sums:
        return _sums(model, [prompts[row] for row in rows], metric, reference, readout, tokens)

    lengths = [len(ids) for ids in prompts]
    adaptive = Adaptive(work, added, "gradients", lengths=lengths)
    sums = (ledger or MemoryLedger()).fold(name, plan_batches(lengths, batch_tokens), adaptive)
    shape = model.sizes.shape("heads")
    return {"heads": sums["heads"].unflatten(-1, shape) / len(prompts), "neurons": sums["neurons"] / len(prompts)}


def _measured(metric: Metric, logits: torch.Tensor) -> torch.Tensor:
    """The metric of every row, ``[B, 1]``."""
    values: Any = metric(logits)
    if isinstance(values, torch.Tensor) and values.ndim == 0:
        values = torch.stack([metric(row[None]) for row in logits]) if len(logits) > 1 else values[None]
    if not isinstance(values, torch.Tensor) or tuple(values.shape) != (len(logits),):
        kind = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise DataError(f"the metric must give one number, or one for each row {(len(logits),)}, not {kind}")
    if not values.requires_grad:
        raise DataError("the metric has no gradient: keep it differentiable, without detach, argmax or item")
    return values[:, None]


def readout_gradients(
    model: Model, prompts: Sequence[Sequence[int]], reference: torch.Tensor, readout: str
) -> torch.Tensor:
    """Gradient of ``readout . reference[e]`` with respect to what each sublayer adds at the last token.

    One backward pass per emotion gives all sublayers at once: the limit of :func:`emotrace.trace.suffix.inject` for
    vanishing strength.

    Args:
        model: any model.
        prompts: token ids.
        reference: ``[E, D]``.
        readout: ``final_norm`` (after the final norm) or ``residual`` (in front of it).

    Returns:
        float64 ``[E, L, 2, D]``, summed over prompts.
    """
    places = [place(model, site, layer) for layer in range(model.sizes.layers) for site in ("attn_out", "mlp_out")]
    grads = _backward(model, prompts, places, None, reference, readout, "last")
    model.counters["influence_tokens"] += sum(len(ids) for ids in prompts)
    return torch.stack([torch.stack(each) for each in grads]).unflatten(1, (-1, 2))


def _sums(
    model: Model,
    prompts: Sequence[Sequence[int]],
    metric: Metric | None,
    reference: torch.Tensor | None,
    readout: str,
    tokens: str,
) -> Sums:
    """Gradients summed over prompts, ``[G, L, W]`` per site."""
    places = [place(model, site, layer) for layer in range(model.sizes.layers) for site in model.sites]
    grads = _backward(model, prompts, places, metric, reference, readout, tokens)
    model.counters["gradient_tokens"] += sum(len(ids) for ids in prompts)
    count = len(model.sites)
    found = {s: torch.stack([torch.stack(each[n::count]) for each in grads]) for n, s in enumerate(model.sites)}
    return {"neurons": found["heads"].new_zeros(*found["heads"].shape[:2], 0), **found}


def _backward(
    model: Model,
    prompts: Sequence[Sequence[int]],
    places: Sequence[Place],
    metric: Metric | None,
    reference: torch.Tensor | None,
    readout: str,
    tokens: str,
) -> list[list[torch.Tensor]]:
    """For each of G targets, its gradient at every place, ``[W]`` on the CPU, summed over prompts and chosen tokens."""
    batch = pad_left(prompts, model.pad_token)
    ids, mask = batch.ids.to(model.device), batch.mask.to(model.device)
    keep = torch.zeros_like(batch.mask) if tokens == "last" else batch.mask.clone()
    keep[:, -1] = 1
    embeddings, final_norm = model.embeddings, model.final_norm
    directions = torch.empty(0) if reference is None else reference.to(model.device)
    with model.lock, model.trace(ids, attention_mask=mask, use_cache=False, logits_to_keep=1, remote=model.remote):
        with torch.enable_grad():
            embeddings.output.requires_grad_(True)
            sites = []
            for at in places:
                sites.append(value(at))
            if metric is not None:
                targets = _measured(metric, model.output.logits[:, -1])
            else:
                source = final_norm.output if readout == "final_norm" else final_norm.input
                targets = source[:, -1] @ directions.to(source).T
            count = targets.shape[1]
            out = nnsight.save([])
            for target in range(count):
                grads = torch.autograd.grad(targets[:, target].sum(), sites, retain_graph=target + 1 < count)
                out.append([torch.einsum("btw,bt->w", g.double(), keep.to(g.device, torch.float64)) for g in grads])
    return [[grad.detach().cpu() for grad in grads] for grads in out]
