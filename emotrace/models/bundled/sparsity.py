"""A training penalty that makes few heads and few neurons write at the last prompt token.

What is summed is the length of each component's write into the residual stream, relative to the stream's own length, so
that the sum falls by silencing components and not by shrinking all of them (an L1 or group-lasso penalty).
"""

import torch
from torch import nn
from transformers import LlamaForCausalLM


class Tapped(nn.Linear):
    """A linear layer that keeps its last input."""

    seen: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.seen = input
        return super().forward(input)


def tap(model: LlamaForCausalLM) -> None:
    """Make the output projections of attention and MLP keep their inputs; weights and names stay."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.__class__ = Tapped
        layer.mlp.down_proj.__class__ = Tapped


def writes(model: LlamaForCausalLM, streams: tuple[torch.Tensor, ...], last: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Summed relative write lengths of all heads and of all neurons at position ``last`` ``[B]`` of each row.

    ``streams`` are the model's hidden states (layer inputs first). Returns two scalars: means over rows.
    """
    rows = torch.arange(len(last))
    head_width = model.config.head_dim
    heads = neurons = torch.zeros(())
    for layer, stream in zip(model.model.layers, streams, strict=False):
        length = stream[rows, last].detach().float().norm(dim=-1)
        out, down = layer.self_attn.o_proj, layer.mlp.down_proj
        z = out.seen[rows, last].float().unflatten(-1, (-1, head_width))
        w = out.weight.unflatten(-1, (-1, head_width))
        sizes = torch.einsum("bhk,dhk->bhd", z, w).norm(dim=-1).sum(-1)
        heads = heads + (sizes / length).mean()
        amounts = (down.seen[rows, last].float().abs() * down.weight.norm(dim=0)).sum(-1)
        neurons = neurons + (amounts / length).mean()
    return heads, neurons
