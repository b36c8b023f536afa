"""Causal zeroing against one hooked forward pass per component, and against the closed form."""

import pytest
import torch

from emotrace.trace.variants import zeroing_falls
from tests.tiny import close, hooked, random_prompts, tiny_model, torch_model


@pytest.mark.parametrize("site", ["heads", "neurons"])
def test_fall_equals_hooks_and_closed_form(site):
    model, prompt = tiny_model(), random_prompts(1)[0]
    direction = torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    layer, components = 1, [0, 2, 3]
    directions = direction.expand(1, 3, 32)
    falls = zeroing_falls(model, [prompt], [0], site, {layer: components}, directions, batch_tokens=20)[layer][0]
    plain = torch_model(model)
    block = plain.model.layers[layer]
    projection = block.self_attn.o_proj if site == "heads" else block.mlp.down_proj
    width = model.sizes.head_width if site == "heads" else 1

    def stream(edit):
        seen, inputs = [], []
        reader = block.post_attention_layernorm if site == "heads" else block

        def keep(x):
            seen.append(x[0, -1].clone())
            return x

        def change(x):
            inputs.append(x[0, -1].clone())
            return edit(x.clone())

        with hooked(projection, before=change), torch.no_grad():
            with hooked(reader, before=keep) if site == "heads" else hooked(reader, after=keep):
                plain(torch.tensor([prompt]))
        return seen[0] @ direction, inputs[0]

    base, values = stream(lambda x: x)
    for fall, component in zip(falls, components, strict=True):
        part = slice(component * width, (component + 1) * width)

        def without(x, part=part):
            x[..., part] = 0
            return x

        zeroed, _ = stream(without)
        assert close(fall, base - zeroed, 1e-10)
        assert close(fall, (projection.weight[:, part] @ values[part]) @ direction, 1e-10)
