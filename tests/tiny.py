"""Tiny random models with a word-level tokenizer, and the plain PyTorch hooks they are checked against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from emotrace.models.load import load
from emotrace.models.traced import Model

VOCABULARY = 64
GROUPED = {"intermediate_size": 40, "num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 12}  # not D / H, so that code which takes one for the other fails
# sdpa would leave out the softcap of Gemma 2's attention; the one on its logits is kept.
GEMMA_2 = WIDE | {"query_pre_attn_scalar": 12, "sliding_window": 128, "attn_logit_softcapping": None}
GEMMA_3 = WIDE | {"query_pre_attn_scalar": 12, "sliding_window": 128, "sliding_window_pattern": 2}
NEOX = {"intermediate_size": 40, "rotary_pct": 0.5}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, WIDE),
    "mistral": (MistralConfig, MistralForCausalLM, WIDE),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, GROUPED),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, WIDE),
    "gemma": (GemmaConfig, GemmaForCausalLM, WIDE),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, GEMMA_2),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM, GEMMA_3),
    "phi3": (Phi3Config, Phi3ForCausalLM, WIDE),
    "gpt2": (GPT2Config, GPT2LMHeadModel, {"n_inner": 40}),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, NEOX | {"use_parallel_residual": True}),
    "gpt_neox_sequential": (GPTNeoXConfig, GPTNeoXForCausalLM, NEOX | {"use_parallel_residual": False}),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM, WIDE),
    "mixtral": (MixtralConfig, MixtralForCausalLM, WIDE | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        WIDE | {"moe_intermediate_size": 40, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True},
    ),
}
MIXTURES = ("mixtral", "qwen3_moe")
QUICK = ("llama", "gemma2", "gpt2", "gpt_neox", "mixtral")  # norms after, Conv1D, parallel, experts: one of each
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


def tiny_hf(
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    layers: int = 3,
    vocabulary: int = VOCABULARY,
) -> Any:
    """A random Hugging Face model in which nothing is zero or one that a trained model would have moved."""
    config_class, model_class, own = FAMILIES[family]
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.5 if family == "gpt2" else 0.25,  # GPT-2's own scheme shrinks its projections
        tie_word_embeddings=False,  # a tied model this small repeats its last token, whatever is done to it
        **own,
    )
    torch.manual_seed(seed)
    hf = model_class(config).to(dtype).eval()
    # Eager attention in float64 turns left padding into NaN. Gemma 2's constructor refuses sdpa because of the softcap.
    hf.config._attn_implementation = "sdpa"
    hf.config._experts_implementation = "eager"  # the default, a grouped product, knows no float64
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if parameter.dim() == 1:  # weights of norms, and biases: new ones hide what leaves them out
                size = 0.1 if name.endswith("bias") else 0.3  # larger biases would say the same to every prompt
                parameter += (size * torch.randn(parameter.shape, generator=generator)).to(dtype)
    return hf


def tiny_model(family: str = "llama", *, dtype: torch.dtype = torch.float64, seed: int = 0, layers: int = 3) -> Model:
    """:func:`tiny_hf` with :func:`tiny_tokenizer`, loaded."""
    return load(tiny_hf(family, dtype=dtype, seed=seed, layers=layers), tokenizer=tiny_tokenizer())


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
    """Largest difference relative to the largest value; nothing at all is close to nothing."""
    if a.shape != b.shape or not a.numel():
        return a.shape == b.shape
    return float((a.double() - b.double()).abs().max()) <= tolerance * max(float(b.double().abs().max()), 1e-30)
