"""Suffix injection and gradients against full forward passes with plain hooks."""

import pytest
import torch

from emotrace.errors import DataError
from emotrace.trace import suffix
from emotrace.trace.attribute import readout_gradients
from emotrace.trace.suffix import injected_shifts, side_by_side
from tests.conformance.hooks import layout_of, module_at
from tests.tiny import FAMILIES, close, hooked, random_prompts, tiny_model, torch_model

FINAL_NORMS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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
@pytest.mark.parametrize("abreast", [True, False], ids=["side by side", "rows"])
def test_injection_equals_a_full_pass(family, readout, abreast, monkeypatch):
    if not abreast:
        monkeypatch.setattr(suffix, "side_by_side", lambda *_: False)
    model, prompts = tiny_model(family), random_prompts(3)
    vectors, reference = random(2, 3, 2, 32, seed=1), random(2, 32, seed=2)
    sizes = random(3, 3, 2, seed=3).abs()
    got = injected_shifts(model, [prompts[:2], prompts[2:]], vectors, sizes, reference, readout)
    assert got.shape == (3, 2, 2, 3)
    nothing = torch.zeros(32, dtype=torch.float64)
    before = sum(full_pass(model, prompt, 0, "attn", nothing, readout) for prompt in prompts)
    for layer in range(3):
        for sublayer, name in enumerate(("attn", "mlp")):
            for e, a in ((0, 0), (1, 2)):
                push = sizes[a, layer, sublayer] * vectors[e, layer, sublayer]
                after = sum(full_pass(model, prompt, layer, name, push, readout) for prompt in prompts)
                assert close(got[layer, sublayer, e, a], (after - before) @ reference[e], 1e-11)


@pytest.mark.parametrize("readout", ["final_norm", "residual"])
def test_gradient_is_the_limit_of_injection(readout):
    model, prompts = tiny_model(), random_prompts(3)
    reference = random(2, 32, seed=2)
    gradients = readout_gradients(model, [prompts[:1], prompts[1:]], reference, readout)
    vectors = random(2, 3, 2, 32, seed=3)
    step = 1e-3  # transformers' RMSNorm computes in float32, so a smaller step drowns in rounding
    sizes = torch.tensor([step, -step], dtype=torch.float64)[:, None, None].expand(2, 3, 2)
    moved = injected_shifts(model, [prompts], vectors, sizes, reference, readout)
    slopes = (moved[..., 0] - moved[..., 1]) / (2 * step)
    expected = (gradients * vectors).sum(-1).permute(1, 2, 0)
    for layer in range(3):
        for sublayer in range(2):
            assert close(expected[layer, sublayer], slopes[layer, sublayer], 2e-3), (layer, sublayer)
    assert all(p.grad is None for p in torch_model(model).parameters())


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("window", range(7, 13))
def test_near_the_window_of_sliding_attention(family, window):
    model = tiny_model(family)
    model.nn._module.config.sliding_window = window
    for module in model.nn._module.modules():
        if getattr(module, "sliding_window", None):
            module.sliding_window = window
    prompts = [[9, 8, 7, 9, 8, *ids] for ids in ([10, 11, 12, 13, 14], [10, 12], [11, 12, 13, 9])]
    vectors, reference = random(1, 3, 2, 32, seed=1), random(1, 32, seed=2)
    sizes = random(1, 3, 2, seed=3).abs()
    together = injected_shifts(model, [prompts], vectors, sizes, reference, "residual")
    apart = sum(injected_shifts(model, [[prompt]], vectors, sizes, reference, "residual") for prompt in prompts)
    assert close(together, apart, 1e-6)
    nothing = torch.zeros(32, dtype=torch.float64)
    moved = [
        full_pass(model, p, 1, "attn", sizes[0, 1, 0] * vectors[0, 1, 0], "residual")
        - full_pass(model, p, 1, "attn", nothing, "residual")
        for p in prompts
    ]
    assert close(together[1, 0, 0, 0], sum(moved) @ reference[0], 1e-6)


def test_variants_stand_side_by_side_where_attention_lets_them():
    assert all(side_by_side(tiny_model(family), 9) for family in FAMILIES)
    model = tiny_model("gemma2")
    assert not side_by_side(model, 129), "longer than the window"
    model.nn._module.config._attn_implementation = "flash_attention_2"
    assert not side_by_side(model, 9)


def test_a_prompt_of_one_token_is_refused():
    with pytest.raises(DataError, match="a prompt of one token has no prefix"):
        injected_shifts(tiny_model(), [[[7]]], random(1, 3, 2, 32), random(1, 3, 2), random(1, 32), "residual")
