"""Models with random weights, in the sizes that are measured, and batches for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import emotrace as et

VOCABULARY, END = 2048, 2
SPECIAL = 7
"""Ids below are of padding, ends and roles, so no prompt holds them."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    layers: int
    width: int
    heads: int
    neurons: int
    key_value_heads: int = 0

    @property
    def name(self) -> str:
        return f"{self.width} x {self.layers}"


TINY, SMALL = Shape(4, 64, 4, 256), Shape(12, 768, 12, 3072)


def gpt2(shape: Shape) -> Any:
    """GPT-2, which every peer knows. Its end of text is never the likeliest token, so all replies are equally long."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=512,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.neurons,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=0,
        tie_word_embeddings=False,
        initializer_range=0.05,
    )
    return _made(GPT2LMHeadModel, config)


def llama(shape: Shape, **own: Any) -> Any:
    """Llama."""
    config = LlamaConfig(
        vocab_size=own.pop("vocabulary", VOCABULARY),
        hidden_size=shape.width,
        intermediate_size=shape.neurons,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads or shape.heads,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=0,
        **own,
    )
    return _made(LlamaForCausalLM, config)


def _made(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = kind(config).eval().requires_grad_(False)
    model.lm_head.weight.data[END] = 0
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """One word for each token id."""
    words = {"<pad>": 0, "<bos>": 1, "<eos>": END, "<unk>": 3} | {f"w{n}": n for n in range(4, VOCABULARY)}
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, **special)


def load(module: Any) -> et.Model:
    """Such a model as emotrace takes it."""
    return et.load(module, tokenizer=tokenizer())


def prompts(count: int, length: int, *, seed: int = 0, shortest: int | None = None) -> list[list[int]]:
    """Random token ids, ``length`` of them or between ``shortest`` and ``length``; no two begin alike."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest or length, length + 1, (count,), generator=generator).tolist()
    return [torch.randint(SPECIAL, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def folder_of(module: Any, folder: Path) -> Path:
    """Where a model has been saved for other processes."""
    module.save_pretrained(folder)
    return folder
