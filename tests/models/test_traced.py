"""Models: families, loading, fingerprints."""

import pytest
import torch
from nnsight import TransformersModel

import emotrace as et
from emotrace.errors import CircuitError, ModelError
from emotrace.models.architectures import family_of
from emotrace.models.load import load
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer, torch_model


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_and_weights_are_those_of_the_modules(family):
    model = tiny_model(family)
    plain, sizes = torch_model(model), model.sizes
    assert (sizes.layers, sizes.heads, sizes.width, sizes.neurons, sizes.vocabulary) == (3, 4, 32, 40, 64)
    assert sizes.head_width == plain.model.layers[0].self_attn.head_dim
    first = plain.model.layers[1]
    assert torch.equal(model.out_proj_weight()[1].flatten(1), first.self_attn.o_proj.weight.double())
    assert torch.equal(model.down_proj_weight()[1], first.mlp.down_proj.weight.double())
    assert sizes.count("heads") == 12


def test_an_unknown_family_shows_the_row_to_add():
    with pytest.raises(ModelError, match=r"'mamba' is not in the table.*Modules found: a, b.*FAMILIES\['mamba'\]"):
        family_of("mamba", ["a", "b"])


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
