"""Models: families, loading, fingerprints."""

import pytest
import torch
from nnsight import TransformersModel

import emotrace as et
from emotrace.errors import CircuitError, ModelError
from emotrace.models import architectures
from emotrace.models.load import load
from tests.conformance.hooks import layout_of, module_at
from tests.tiny import FAMILIES, MIXTURES, tiny_model, tiny_tokenizer, torch_model


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_and_weights_are_those_of_the_modules(family):
    model = tiny_model(family)
    plain, sizes = torch_model(model), model.sizes
    neurons = 0 if family in MIXTURES else 40
    assert (sizes.layers, sizes.heads, sizes.width, sizes.neurons, sizes.vocabulary) == (3, 4, 32, neurons, 64)
    assert sizes.key_value_heads == getattr(plain.config, "num_key_value_heads", 4)
    layout = layout_of(plain)
    block = module_at(plain, layout.blocks)[1]
    for site, path, count in (("heads", layout.out_proj, 4), ("neurons", layout.down_proj, neurons)):
        if not count:
            assert model.write_weight(site, 1).shape == (32, 0, 1)
            continue
        weight = module_at(block, path).weight
        weight = weight.T if family == "gpt2" else weight
        assert torch.equal(model.write_weight(site, 1).flatten(1), weight.double())
        assert torch.equal(model.write_weight(site, 1, [3, 1]), model.write_weight(site, 1)[:, [3, 1]])
    assert sizes.head_width == weight_columns(block, layout.out_proj, family) // 4
    assert (sizes.count("heads"), sizes.count("neurons")) == (12, 3 * neurons)
    assert model.sites == (("heads",) if family in MIXTURES else ("heads", "neurons"))


def weight_columns(block, path, family):
    return module_at(block, path).weight.shape[0 if family == "gpt2" else 1]


def test_an_unknown_family_shows_the_row_to_add():
    plain = torch_model(tiny_model())
    plain.config.model_type = "mamba"
    found = r"model, model.embed_tokens, model.layers, model.layers.0, .*self_attn.o_proj"
    row = r"register_architecture\(emotrace.Architecture\('mamba'"
    with pytest.raises(ModelError, match=rf"'mamba' is not in the table.*Modules found: {found}.*{row}"):
        load(plain, tokenizer=tiny_tokenizer())


def test_a_registered_family_loads(monkeypatch):
    monkeypatch.setattr(architectures, "ARCHITECTURES", dict(architectures.ARCHITECTURES))
    plain = torch_model(tiny_model())
    plain.config.model_type = "mine"
    et.register_architecture(et.Architecture("mine", mid_norm="ln_9"))
    with pytest.raises(ModelError, match=r"mid_norm='ln_9' is not in block 0\. Modules found there: self_attn, "):
        load(plain, tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match="has a row for 'mine' already"):
        et.register_architecture(et.Architecture("mine"))
    with pytest.raises(ModelError, match="needs name="):
        et.register_architecture(lambda config: et.Architecture("mine"))
    et.register_architecture(lambda config: et.Architecture("mine"), name="mine", replace=True)
    assert load(plain, tokenizer=tiny_tokenizer()).sizes == tiny_model().sizes


def test_the_users_model_is_used_and_not_changed():
    plain = torch_model(tiny_model())
    mine = TransformersModel(plain, tokenizer=tiny_tokenizer(), task="text-generation")
    before = set(vars(mine))
    model = load(mine)
    assert model.nn is mine
    assert set(vars(mine)) == before
    assert load(model) is model
    assert "llama" in repr(model)


def test_loading_says_what_is_wrong(tmp_path):
    with pytest.raises(ModelError, match="cannot load"):
        load(tmp_path)
    with pytest.raises(ModelError, match="needs tokenizer="):
        load(torch_model(tiny_model()))
    with pytest.raises(ModelError, match="cannot load a int"):
        load(3)
    with pytest.raises(ModelError, match="set them on the model itself"):
        load(torch_model(tiny_model()), tokenizer=tiny_tokenizer(), dtype="float32")


def test_the_fingerprint_tells_models_apart():
    mine, same = tiny_model().fingerprint, tiny_model(dtype=torch.bfloat16).fingerprint
    mine.check(same)
    with pytest.raises(CircuitError, match="other weights"):
        mine.check(tiny_model(seed=5).fingerprint)
    with pytest.raises(CircuitError, match="layers: 3, 4"):
        mine.check(tiny_model(layers=4).fingerprint)
    other = tiny_model()
    other.tokenizer.chat_template = "another"
    with pytest.raises(CircuitError, match="tokenizer or chat template"):
        mine.check(other.fingerprint)


def test_bundled_loads_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = et.load("bundled")
    assert model.dtype == torch.float32
    assert model.sizes.layers >= 8
    assert model.sizes.count("heads") >= 64
