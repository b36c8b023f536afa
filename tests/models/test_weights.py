"""Weights of projections in memory, kept elsewhere by accelerate, and nowhere; traces on such a model."""

import weakref
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from nnsight import TransformersModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from emotrace.errors import ModelError
from emotrace.models.weights import projection_bias, projection_weight
from tests.tiny import tiny_tokenizer

PLACES = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2.input_layernorm": "cpu",
    "model.layers.2.post_attention_layernorm": "disk",
    "model.layers.2.self_attn": "disk",
    "model.layers.2.mlp.gate_proj": "cpu",
    "model.layers.2.mlp.up_proj": "disk",
    "model.layers.2.mlp.down_proj": "disk",
    "model.layers.2.mlp.act_fn": "cpu",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


def plain_llama(dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
        mlp_bias=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.25,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model.to(dtype).eval()


def offloaded(model: Any, tmp_path: Any, places: dict[str, str] = PLACES) -> Any:
    model.save_pretrained(tmp_path / "model")
    return AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=model.dtype, device_map=places, offload_folder=tmp_path / "offload"
    ).eval()


def projections(model: Any) -> list[torch.nn.Module]:
    return [module for block in model.model.layers for module in (block.self_attn.o_proj, block.mlp.down_proj)]


def test_weights_in_memory_are_copied_and_turned():
    linear, conv = torch.nn.Linear(3, 2, dtype=torch.float64), Conv1D(2, 3)
    torch.nn.init.normal_(conv.bias)
    weight = projection_weight(linear, name="m")
    assert torch.equal(weight, linear.weight)
    weight.zero_()
    assert linear.weight.abs().min() > 0, "a change of the copy does not reach the model"
    turned = projection_weight(conv, name="m", transposed=True)
    assert (turned.shape, turned.dtype, turned.is_contiguous()) == ((2, 3), torch.float64, True)
    x = torch.randn(5, 3)
    bias = projection_bias(conv, name="m")
    torch.testing.assert_close(x.double() @ turned.T + bias, conv(x).double(), rtol=1e-5, atol=1e-6)
    assert not turned.requires_grad
    assert projection_bias(torch.nn.Linear(3, 2, bias=False), name="m") is None
    assert torch.equal(projection_bias(linear, name="m"), linear.bias)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_part_is_the_part_of_the_whole(transposed):
    module = Conv1D(6, 8) if transposed else torch.nn.Linear(8, 6)
    whole = projection_weight(module, name="m", transposed=transposed)
    columns = torch.tensor([7, 0, 3])
    for chosen in (columns, slice(2, 5), None):
        for rows in (slice(4), None):
            part = projection_weight(module, name="m", transposed=transposed, columns=chosen, rows=rows)
            expected = whole[rows if rows else slice(None)][:, chosen if chosen is not None else slice(None)]
            assert torch.equal(part, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_kept_elsewhere_equal_the_originals(tmp_path, dtype):
    plain = plain_llama(dtype)
    away = offloaded(plain, tmp_path)
    assert [module.weight.is_meta for module in projections(away)] == [False, False, True, True, True, True]
    for mine, theirs in zip(projections(plain), projections(away), strict=True):
        was_meta = theirs.weight.is_meta
        assert torch.equal(projection_weight(theirs, name="m"), mine.weight.double())
        assert torch.equal(projection_bias(theirs, name="m"), mine.bias.double())
        part = projection_weight(theirs, name="m", columns=torch.tensor([5, 1]), rows=slice(4))
        assert torch.equal(part, mine.weight.double()[:4, [5, 1]])
        assert theirs.weight.is_meta == was_meta, "the model is left as it was"


def test_a_hook_of_the_users_own_beside_accelerates_is_no_obstacle(tmp_path):
    plain = plain_llama()
    away = offloaded(plain, tmp_path)
    module = away.model.layers[1].mlp.down_proj
    add_hook_to_module(module, ModelHook(), append=True)
    assert torch.equal(projection_weight(module, name="m"), plain.model.layers[1].mlp.down_proj.weight)


def test_a_trace_on_an_offloaded_model_is_that_of_the_model_in_memory(tmp_path):
    plain = plain_llama()
    ids = torch.tensor([[7, 8, 9, 10], [0, 11, 12, 13]])
    mask = (ids != 0).long()

    def traced(model: Any) -> tuple[torch.Tensor, ...]:
        nn = TransformersModel(model, tokenizer=tiny_tokenizer(), task="text-generation")
        with nn.trace(ids, attention_mask=mask, use_cache=False):
            with torch.no_grad():
                heads = nn.model.layers[1].self_attn.o_proj.input.clone().save()
                nn.model.layers[1].self_attn.o_proj.output[:, -1, 5] += 1.0
                neurons = nn.model.layers[1].mlp.down_proj.input.clone().save()
                nn.model.layers[2].mlp.down_proj.input[:, -1, 3] = 2.0
                written = nn.model.layers[2].mlp.down_proj.output.clone().save()
                logits = nn.lm_head.output.clone().save()
        with nn.generate(max_new_tokens=4, do_sample=False) as tracer:
            with tracer.invoke(ids, attention_mask=mask):
                pass
            with tracer.invoke():
                tokens = tracer.result.save()
        return heads, neurons, written, logits, tokens

    away = offloaded(plain, tmp_path)
    mine = traced(away)
    assert [module.weight.is_meta for module in projections(away)] == [False, False, True, True, True, True]
    for one, other in zip(traced(plain), mine, strict=True):
        assert torch.equal(one, other)
    # what a projection wrote is its weight, read from disk, times what went into it
    down = away.model.layers[1].mlp.down_proj
    with torch.no_grad():
        expected = plain.model.layers[1].mlp.down_proj(mine[1])
    written = mine[1] @ projection_weight(down, name="m").T + projection_bias(down, name="m")
    torch.testing.assert_close(written, expected, rtol=1e-12, atol=1e-12)


def test_weights_that_are_nowhere_are_an_error(tmp_path):
    plain_llama().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    nn = TransformersModel(str(tmp_path), tokenizer=tiny_tokenizer(), task="text-generation")
    module = nn.model.layers[0].mlp.down_proj._module
    for read in (projection_weight, projection_bias):
        with pytest.raises(ModelError, match=r"weights of 'org/name' are not on this machine; .* load it locally"):
            read(module, name="org/name")


def test_a_hook_without_the_weight_is_an_error():
    module = torch.nn.Linear(3, 2, device="meta")
    add_hook_to_module(module, ModelHook())
    with pytest.raises(ModelError, match="not on this machine"):
        projection_weight(module, name="m")
    module._hf_hook.weights_map = {"bias": torch.ones(2)}
    with pytest.raises(ModelError, match="not on this machine"):
        projection_weight(module, name="m")
    assert torch.equal(projection_bias(module, name="m"), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(12, 1, dtype=torch.uint8),
        torch.zeros(4, 6, dtype=torch.int8),
        torch.zeros(4, 6, dtype=torch.float8_e4m3fn),
        torch.zeros(2, 4, 6),
    ],
)
def test_weights_that_are_not_values_are_an_error(weight):
    module = torch.nn.Module()
    module.register_buffer("weight", weight)
    with pytest.raises(ModelError, match=r"weights of 'm' are stored quantised .*load the model in bfloat16"):
        projection_weight(module, name="m")


def test_a_module_without_a_weight_is_an_error():
    with pytest.raises(ModelError, match="'m': a SiLU has no weight"):
        projection_weight(torch.nn.SiLU(), name="m")


def test_reading_keeps_nothing_of_the_model_alive():
    module = torch.nn.Linear(3, 2, dtype=torch.float64)
    gone = weakref.ref(module.weight)
    weight = projection_weight(module, name="m")
    del module
    assert gone() is None
    assert weight.shape == (2, 3)
