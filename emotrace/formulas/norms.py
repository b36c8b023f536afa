"""What a norm does to a difference: closed forms for components whose writes are normed before they are read.

A norm is ``gain * x / sqrt(mean(x^2) + eps) + bias``, with the mean over D taken off x first where it is centred
(LayerNorm). Biases cancel in differences, so they do not appear here.
"""

from __future__ import annotations

import torch


def normalised(x: torch.Tensor, gain: torch.Tensor, eps: float, *, centred: bool) -> torch.Tensor:
    """The norm of ``x [..., D]``, without its bias."""
    x = x - x.mean(-1, keepdim=True) if centred else x
    return gain * x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


def normed_falls(
    output: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor,
    direction: torch.Tensor,
    gain: torch.Tensor,
    eps: float,
    *,
    centred: bool,
) -> torch.Tensor:
    """Fall of ``norm(output) . direction`` when one neuron's write is taken out of ``output``, for all neurons at once.

    With o the output, w = activation * weight column and u = gain * direction, it is
    ``u.o / rms(o) - u.(o - w) / rms(o - w)``, where ``rms(o - w)^2 = (|o|^2 - 2 o.w + |w|^2) / D + eps``: two products
    with the weight, whatever the number of neurons.

    Args:
        output: ``[N, D]``, the projection's output, bias included.
        activations: ``[N, F]``.
        weight: ``[D, F]``.
        direction: ``[N, D]``.
        gain: ``[D]``.
        eps: the norm's.
        centred: the norm takes the mean over D off first.

    Returns:
        float64 ``[N, F]``.
    """
    if centred:
        output, weight = output - output.mean(-1, keepdim=True), weight - weight.mean(0)
    seen = gain * direction
    along, beside = (seen @ weight).double(), (output @ weight).double()
    size = weight.square().sum(0).double()
    a, width = activations.double(), output.shape[-1]
    whole = (seen.double() * output.double()).sum(-1, keepdim=True)
    square = output.double().square().sum(-1, keepdim=True)
    before = (square / width + eps).rsqrt()
    after = ((square - 2 * a * beside + a.square() * size) / width + eps).rsqrt()
    return whole * before - (whole - a * along) * after
