"""Refusing a model that does not fit, before a weight is read, and other reasons why a model does not load."""

import json
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, T5Config

import emotrace.models.memory as memory
from emotrace.errors import ModelError
from emotrace.models.load import load
from emotrace.models.memory import available_bytes, readable, refuse_if_too_large, weights_bytes
from tests.tiny import tiny_tokenizer

Free = namedtuple("Free", "available")


def small(**options):
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    return LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, **options)


def huge(**options):
    """A model of 70 billion parameters."""
    sizes = {"vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    return LlamaConfig(**sizes, num_attention_heads=64, num_key_value_heads=8, **options)


@pytest.fixture
def free(monkeypatch):
    """Set what the CPU and each GPU have free."""

    def set_free(cpu: int, *gpus: int) -> None:
        monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: Free(cpu))
        monkeypatch.setattr(memory, "OWN_CGROUPS", Path("/nowhere"))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (gpus[place.index or 0], 0))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda place: 30)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda place: 10)

    return set_free


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_bytes_are_those_of_the_model_in_memory(tied, dtype):
    config = small(tie_word_embeddings=tied)
    storages = {}
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    for values in (*model.parameters(), *model.buffers()):
        storages[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
    assert weights_bytes(config, dtype) == sum(storages.values())
    assert weights_bytes(config, str(dtype).removeprefix("torch.")) == sum(storages.values())


def test_auto_is_the_configs_own_dtype_or_float32():
    assert weights_bytes(small(dtype="bfloat16"), "auto") == weights_bytes(small(), torch.bfloat16)
    assert weights_bytes(small(), "auto") == weights_bytes(small(), torch.float32)
    with pytest.raises(ModelError, match="no dtype 'float33'"):
        weights_bytes(small(), "float33")
    with pytest.raises(ModelError, match="no dtype 'nn'"):
        weights_bytes(small(), "nn")


def test_asking_draws_no_random_numbers_and_leaves_the_config_alone():
    config, state = small(), torch.get_rng_state()
    before = config.to_dict()
    weights_bytes(config, "auto")
    assert torch.equal(torch.get_rng_state(), state)
    assert config.to_dict() == before


def test_a_model_that_is_no_language_model_is_a_value_error():
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        weights_bytes(T5Config(), "auto")


def test_a_large_model_is_refused_in_one_sentence(free):
    free(24_000_000_000)
    with pytest.raises(ModelError) as refused:
        refuse_if_too_large("big/model", huge(dtype="bfloat16"), "auto", None)
    assert str(refused.value) == (
        "'big/model' does not fit: its weights need 141.1 GB in bfloat16, and 24.0 GB are free on the CPU; "
        'device="auto" spreads the layers over every GPU and the CPU\'s memory (needs accelerate); '
        "remote=True runs a model of the Hub on NDIF"
    )


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.float32, r'need 282\.2 GB in float32, .*dtype="bfloat16" takes half of that'),
        ("float64", r'need 564\.4 GB in float64, .*dtype="bfloat16" takes a quarter of that'),
    ],
)
def test_a_wide_dtype_is_told_of_a_narrower_one(free, dtype, message):
    free(24_000_000_000)
    with pytest.raises(ModelError, match=message):
        refuse_if_too_large("big/model", huge(), dtype, "cpu")


def test_each_device_is_asked_for_its_own(free):
    free(200_000, 70_000, 50_000)
    assert available_bytes(None) == available_bytes("cpu") == available_bytes(torch.device("cpu")) == 200_000
    assert available_bytes("cuda:1") == available_bytes(torch.device("cuda", 1)) == 50_020, "torch's own cache is free"
    assert available_bytes("cuda") == 70_020
    assert available_bytes("auto") == 200_000 + 70_020 + 50_020
    needed = weights_bytes(small(), torch.float32)
    assert 70_020 < needed < 200_000
    refuse_if_too_large("m", small(), torch.float32, None)
    refuse_if_too_large("m", small(), torch.float32, "auto")
    refuse_if_too_large("m", small(), torch.bfloat16, "cuda:0")
    with pytest.raises(ModelError, match=r"need 0\.1 MB in float32, and 0\.1 MB are free on cuda:0; .*auto"):
        refuse_if_too_large("m", small(), torch.float32, torch.device("cuda:0"))


def test_all_devices_together_may_be_too_small(free):
    free(20_000, 5_000, 5_000)
    with pytest.raises(ModelError, match=r"free on 2 GPUs and the CPU; remote=True runs") as refused:
        refuse_if_too_large("m", small(), torch.bfloat16, "auto")
    assert "device=" not in str(refused.value)
    free(20_000, 10_000)
    with pytest.raises(ModelError, match="free on 1 GPU and the CPU"):
        refuse_if_too_large("m", small(), torch.float32, "auto")
    free(20_000)
    with pytest.raises(ModelError, match=r"free on the CPU \(there is no GPU\)"):
        refuse_if_too_large("m", small(), torch.float32, "auto")


def test_a_gpu_with_room_does_not_help_where_the_cpu_has_none(free):
    free(60_000, 200_000)
    with pytest.raises(ModelError, match=r"free on the CPU, where weights are read first; .*device=\"auto\""):
        refuse_if_too_large("m", small(), torch.float32, "cuda")


@pytest.mark.parametrize("device", ["cuda:77", "warp"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ModelError, match=f"cannot put 'm' on '{device}': "):
        refuse_if_too_large("m", small(), torch.float32, device)
    with pytest.raises((RuntimeError, AssertionError)):
        available_bytes(device)
    with pytest.raises(ModelError, match=f"cannot put 'bundled' on '{device}': "):
        load("bundled", device=device)


def test_a_quantised_checkpoint_is_not_judged(free):
    free(10)
    refuse_if_too_large("m", small(quantization_config={"quant_method": "gptq", "bits": 4}), "auto", None)


def test_sizes_are_readable():
    assert readable(141_107_412_992) == "141.1 GB"
    assert readable(1_500_000_000_000) == "1,500.0 GB"
    assert readable(250_000) == "0.2 MB"


def group(folder: Path, limit: str, used: int, cached: int, names: tuple[str, str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize(("names", "line", "top"), [(V2, "0::/job/step", ""), (V1, "4:cpu,memory:/job/step", "memory")])
def test_the_limit_of_a_container_counts(tmp_path, free, monkeypatch, names, line, top):
    free(1_000_000)
    own, mount = tmp_path / "own", tmp_path / "mount"
    own.write_text(f"7:blkio:/elsewhere\n{line}\n1:name=systemd:/\n")
    monkeypatch.setattr(memory, "OWN_CGROUPS", own)
    monkeypatch.setattr(memory, "CGROUPS", mount)
    assert available_bytes("cpu") == 1_000_000, "no group is mounted here"
    group(mount / top, "9223372036854771712", 700, 0, names)
    assert available_bytes("cpu") == 1_000_000
    group(mount / top / "job", "5000", 1000, 300, names)
    assert available_bytes("cpu") == 4300, "the group above holds"
    group(mount / top / "job" / "step", "2000", 1500, 200, names)
    assert available_bytes("cpu") == 700
    group(mount / top / "job" / "step", "max" if names is V2 else "9223372036854771712", 1500, 200, names)
    assert available_bytes("cpu") == 4300
    group(mount / top / "job", "5000", 9000, 0, names)
    assert available_bytes("cpu") == 0
    (mount / top / "job" / "memory.stat").write_text("nonsense")
    assert available_bytes("cpu") == 1_000_000


def test_this_machine_answers():
    assert 0 < available_bytes("cpu") <= memory.psutil.virtual_memory().total


def test_loading_refuses_before_a_weight_is_read(free, monkeypatch, tmp_path):
    huge(dtype="bfloat16").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    free(24_000_000_000)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ModelError, match=r"does not fit: its weights need 141\.1 GB in bfloat16"):
        load(tmp_path)
    with pytest.raises(ModelError, match=r"need 282\.2 GB in float32.*takes half"):
        load(tmp_path, dtype="float32")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "zebra"}, "has model type `zebra` but Transformers does not recognize this architecture"),
        ({"hidden_size": 3}, "Should have a `model_type` key"),
        (T5Config().to_dict(), "it is not a causal language model"),
        (
            {"model_type": "zebra", "auto_map": {"AutoConfig": "zebra.Config", "AutoModelForCausalLM": "zebra.LM"}},
            r"brings code of its own, which emotrace does not run; load it with transformers",
        ),
        ({"model_type": "llama", "hidden_size": "big"}, "field 'hidden_size': TypeError: Field 'hidden_size' expected"),
        ({"model_type": "llama", "dtype": "float99"}, "AttributeError: module 'torch' has no attribute 'float99'"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(tmp_path, monkeypatch, config, message):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message) as refused:
        load(tmp_path)
    assert str(refused.value).startswith(f"cannot load {str(tmp_path)!r}: ")
    assert "\n" not in str(refused.value)


def test_broken_weights_and_a_missing_tokenizer_are_one_line(tmp_path):
    small().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        load(tmp_path)
    for file in tmp_path.glob("token*"):
        file.unlink()
    LlamaForCausalLM(small()).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot load .*tokenizer"):
        load(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load(tmp_path).sizes.layers == 2
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ModelError, match="cannot load") as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)
