"""Many zeroings in one forward pass: rows of a batch that differ only in the component they lack."""

from collections.abc import Sequence

import torch

from emotrace.errors import ModelError
from emotrace.models.traced import Model
from emotrace.trace.adapting import Adaptive
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS, pad_left
from emotrace.trace.sites import place, reading, value

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
    prompt: Sequence[int],
    site: str,
    layer: int,
    components: Sequence[int],
    direction: torch.Tensor,
    *,
    readout: str = "residual",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> torch.Tensor:
    """Fall of the residual stream's projection on ``direction`` when components of ``layer`` are zeroed one at a time.

    The components are really zeroed, at every token, in rows of batches that each hold an unedited row, and the
    residual stream is read after the sublayer's add, at the last token.

    Args:
        model: any model.
        prompt: token ids of one prompt (rows have equal length, so nothing is padded).
        site: ``heads`` or ``neurons``.
        layer: counted from 0.
        components: K indices.
        direction: ``[D]``.
        readout: ``residual``, or for heads ``normed``: after the norm that feeds the MLP.
        batch_tokens: token budget of a batch.

    Returns:
        float64 ``[K]``.

    Raises:
        ModelError: the model has no such site or readout.
    """
    check_readout(model, readout)
    if site not in model.sites:
        raise ModelError(f"{model.architecture.name} has no {site} as a site; it has {', '.join(model.sites)}")
    if readout == "normed" and site != "heads":
        raise ModelError("readout='normed' is for heads: what neurons write comes after that norm")

    def work(chosen: tuple[int, ...]) -> list[float]:
        return _falls(model, prompt, site, layer, chosen, direction, readout)

    rows = max(1, batch_tokens // len(prompt) - 1)
    run = Adaptive(work, lambda first, second: first + second, "causal scores")
    parts = [run(tuple(components[at : at + rows])) for at in range(0, len(components), rows)]
    return torch.tensor([fall for part in parts for fall in part], dtype=torch.float64)


def _falls(
    model: Model,
    prompt: Sequence[int],
    site: str,
    layer: int,
    components: Sequence[int],
    direction: torch.Tensor,
    readout: str,
) -> list[float]:
    batch = pad_left([prompt] * (len(components) + 1), model.pad_token)
    ids, mask = batch.ids.to(model.device), batch.mask.to(model.device)
    gone = torch.zeros(len(components) + 1, 1, *model.sizes.shape(site), dtype=torch.bool)
    gone[torch.arange(len(components)), 0, list(components)] = True
    gone = gone.flatten(2).to(model.device_of(layer))
    edited = place(model, site, layer)
    stream = "resid_attn" if site == "heads" else "resid_mlp"
    read = reading(model, layer, [stream])
    after = read.places[stream] if readout == "residual" else (model.mid_norm[layer], "output")
    with (
        model.lock,
        model.trace(ids, attention_mask=mask, use_cache=False, logits_to_keep=1, remote=model.remote) as tracer,
    ):
        with torch.no_grad():
            start = 0.0 if read.start is None else read.start.input[:, -1].clone()
            values = value(edited)
            values[:] = values.masked_fill(gone, 0)
            state = start + value(after)[:, -1]
            projected = (state.double() @ direction.to(state.device, torch.float64)).save()
            tracer.stop()
    model.counters["causal_tokens"] += ids.numel()
    return (projected[-1] - projected[:-1]).tolist()
