"""Tiny random models with a word-level tokenizer, and the plain PyTorch hooks they are checked against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from emotrace.models.load import load
from emotrace.models.traced import Model

VOCABULARY = 64
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}assistant{% endif %}"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3, "system": 4, "user": 5, "assistant": 6}
    vocabulary |= {f"w{i}": i for i in range(len(vocabulary), VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    fast.chat_template = TEMPLATE
    return fast


def tiny_model(family: str = "llama", *, dtype: torch.dtype = torch.float64, seed: int = 0, layers: int = 3) -> Model:
    """A random model whose head width is not D / H, with grouped key-value heads."""
    config_class, model_class = FAMILIES[family]
    options: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.25,
    }
    if family != "qwen2":
        options["head_dim"] = 12
    torch.manual_seed(seed)
    return load(model_class(config_class(**options)).to(dtype).eval(), tokenizer=tiny_tokenizer())


def random_prompts(count: int, *, seed: int = 0, shortest: int = 4, longest: int = 9) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(7, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def torch_model(model: Model) -> Any:
    """The plain Hugging Face model inside."""
    return model.nn._module


@contextmanager
def hooked(module: torch.nn.Module, *, before: Callable | None = None, after: Callable | None = None) -> Iterator[None]:
    """``before(input) -> input`` and ``after(output) -> output`` as plain PyTorch hooks, undone at the end."""
    handles = []
    if before is not None:
        handles.append(module.register_forward_pre_hook(lambda _, args: (before(args[0]), *args[1:])))
    if after is not None:
        handles.append(module.register_forward_hook(lambda _, args, output: after(output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> bool:
    """Largest difference relative to the largest value."""
    return float((a.double() - b.double()).abs().max()) <= tolerance * max(float(b.double().abs().max()), 1e-30)
