"""Suffix injection and gradients against full forward passes with plain hooks."""

import pytest
import torch

from emotrace.trace.attribute import readout_gradients
from emotrace.trace.suffix import compute_prefix, inject
from tests.conformance.hooks import layout_of, module_at
from tests.tiny import FAMILIES, close, hooked, random_prompts, tiny_model, torch_model

FINAL_NORMS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}


def full_pass(model, prompt, layer, sublayer, vector, readout):
    """The readout with ``vector`` added to the sublayer's output at the last token, by a hook on a full pass."""
    plain = torch_model(model)
    layout = layout_of(plain)
    block = module_at(plain, layout.blocks)[layer]
    adds = module_at(block, layout.attn_adds if sublayer == "attn" else layout.mlp_adds)
    norm = module_at(plain, FINAL_NORMS.get(plain.config.model_type, "model.norm"))
    seen = []

    def add(output):
        first, *rest = output if isinstance(output, tuple) else (output,)
        first = first.clone()
        first[:, -1] += vector
        return (first, *rest) if isinstance(output, tuple) else first

    with hooked(adds, after=add), torch.no_grad():
        if readout == "residual":
            with hooked(norm, before=lambda x: seen.append(x[0, -1].clone()) or x):
                plain(torch.tensor([prompt]))
        else:
            with hooked(norm, after=lambda y: seen.append(y[0, -1].clone()) or y):
                plain(torch.tensor([prompt]))
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("readout", ["final_norm", "residual"])
def test_injection_equals_a_full_pass(family, readout):
    model, prompts = tiny_model(family), random_prompts(3)
    prefix = compute_prefix(model, prompts, readout)
    vectors = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for layer in range(3):
        zero = torch.zeros(1, 32, dtype=torch.float64)
        attn, mlp = torch.cat([vectors[:1], zero, zero]), torch.cat([zero, vectors[1:], zero])
        got = inject(model, prefix, layer, attn, mlp, readout)
        for row, prompt in enumerate(prompts):
            assert close(got[row, 0], full_pass(model, prompt, layer, "attn", vectors[0], readout), 1e-12)
            assert close(got[row, 1], full_pass(model, prompt, layer, "mlp", vectors[1], readout), 1e-12)
            assert close(got[row, 2], prefix.final[row], 1e-12)


@pytest.mark.parametrize("readout", ["final_norm", "residual"])
def test_gradient_is_the_limit_of_injection(readout):
    model, prompts = tiny_model(), random_prompts(3)
    reference = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = readout_gradients(model, prompts, reference, readout)
    prefix = compute_prefix(model, prompts, readout)
    generator = torch.Generator().manual_seed(3)
    vector, zero = torch.randn(1, 32, dtype=torch.float64, generator=generator), torch.zeros(1, 32, dtype=torch.float64)
    step = 1e-3  # transformers' RMSNorm computes in float32, so a smaller step drowns in rounding
    for layer in range(3):
        for sublayer in range(2):
            pair = (step * vector, zero) if sublayer == 0 else (zero, step * vector)
            up = inject(model, prefix, layer, *pair, readout)[:, 0]
            down = inject(model, prefix, layer, -pair[0], -pair[1], readout)[:, 0]
            slope = ((up - down) @ reference.T).sum(0) / (2 * step)
            assert close(gradients[:, layer, sublayer] @ vector[0], slope, 2e-3), (layer, sublayer)
    assert all(p.grad is None for p in torch_model(model).parameters())
