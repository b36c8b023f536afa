"""Planted models by plain PyTorch: prompts, hooks that zero components row by row, readings of logits."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers import LlamaConfig, Qwen3Config

import emotrace as et
from emotrace.data.prompts import render
from emotrace.planted import Planted
from tests.tiny import hooked

SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
FAMILIES = {"llama": LlamaConfig, "qwen3": Qwen3Config}
DECOYS = {"inert": 1, "cancelling": 1, "backup": 1}
GROUPS = [scenario.groups()[i % 3] for i, scenario in enumerate(et.load_sev("sev-mini").test[:6])]
SITES = ("heads", "neurons")

Removed = Mapping[str, Sequence[tuple[int, int]]]


def config(family: str = "llama", **other: Any) -> Any:
    """A configuration of the family; Qwen3's heads are not D / H wide."""
    own = {"head_dim": 24} if family == "qwen3" else {}
    return FAMILIES[family](**{**SIZES, **own, **other})


def prompt_ids(planted: Planted, group: et.Group, condition: str) -> list[int]:
    text = render(planted.tokenizer, et.prompt(group, condition, et.PAPER_SIX).messages)
    return planted.tokenizer(text, add_special_tokens=False)["input_ids"]


def logits(planted: Planted, ids: Sequence[int], variants: Sequence[Removed] = ({},)) -> torch.Tensor:
    """Logits at the last token ``[variants, V]``, each row with its components zeroed at every token."""
    model = planted.model
    width = model.model.layers[0].self_attn.o_proj.in_features // model.config.num_attention_heads
    keep: dict[tuple[int, str], torch.Tensor] = {}
    for row, removed in enumerate(variants):
        for site, places in removed.items():
            for layer, index in places:
                size = model.config.num_attention_heads * width if site == "heads" else model.config.intermediate_size
                mask = keep.setdefault((layer, site), torch.ones(len(variants), 1, size))
                one = slice(index * width, (index + 1) * width) if site == "heads" else slice(index, index + 1)
                mask[row, :, one] = 0
    with ExitStack() as stack, torch.no_grad():
        for (layer, site), mask in keep.items():
            block = model.model.layers[layer]
            module = block.self_attn.o_proj if site == "heads" else block.mlp.down_proj
            stack.enter_context(hooked(module, before=lambda values, mask=mask: values * mask))
        return model(torch.tensor([list(ids)] * len(variants))).logits[:, -1]


def reading(planted: Planted, emotion: str, found: torch.Tensor) -> torch.Tensor:
    """Mean logit of the emotion's words minus that of the other emotions' words, ``[variants]``."""
    others = [i for e in planted.emotions if e != emotion for i in planted.word_ids[e]]
    return found[:, list(planted.word_ids[emotion])].mean(1) - found[:, others].mean(1)


def falls(planted: Planted, group: et.Group, emotion: str, variants: Sequence[Removed]) -> torch.Tensor:
    """Fall of an emotion's reading on its own prompt, ``[variants]``."""
    found = reading(planted, emotion, logits(planted, prompt_ids(planted, group, emotion), [{}, *variants]))
    return found[0] - found[1:]


def ordinary(planted: Planted, site: str) -> list[tuple[int, int]]:
    """Components that are planted for no emotion."""
    sizes = planted.model.config
    count = sizes.num_attention_heads if site == "heads" else sizes.intermediate_size
    every = [(layer, index) for layer in range(sizes.num_hidden_layers) for index in range(count)]
    return [place for place in every if all(planted.kind(e, site, place) is None for e in planted.emotions)]


def replies(planted: Planted, group: et.Group) -> dict[str, str]:
    """Greedy replies of plain transformers to every condition's prompt."""
    made = {}
    for condition in (*planted.emotions, "neutral"):
        ids = torch.tensor([prompt_ids(planted, group, condition)])
        out = planted.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        made[condition] = planted.tokenizer.decode(out[0, ids.shape[1] :])
    return made
