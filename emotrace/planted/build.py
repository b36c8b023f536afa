"""Construct a model, without training, whose emotion heads and neurons are known."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from emotrace.data.concepts import PAPER_SIX
from emotrace.errors import ModelError
from emotrace.models.architectures import architecture_of, sizes_of
from emotrace.planted.families import check_family
from emotrace.planted.frame import Frame
from emotrace.planted.layout import BACKUP, CLASSES, DECOYS, Layout, plan
from emotrace.planted.model import SITES, Planted
from emotrace.planted.readings import logit_difference
from emotrace.planted.weights import Writer
from emotrace.planted.words import BOS, END, PAD, tokenizer_of, vocabulary

ORDINARY = 0.5
"""Least share of the residual stream that stays ordinary."""


def build(
    config: PreTrainedConfig,
    *,
    heads: int = 2,
    neurons: int = 4,
    decoys: Mapping[str, int] | None = None,
    leak: float = 0.0,
    seed: int = 0,
) -> Planted:
    """A model of this configuration with known emotion components, for the six emotions of ``PAPER_SIX``.

    How it works. A few random directions of the residual stream are reserved; everything else is an ordinary random
    transformer that neither reads nor writes them. An emotion's name holds that emotion's code. Each of the emotion's
    heads attends to the name, from any later token, and copies the code (its share of it). Each of its neurons reads
    the copy and writes the emotion's output direction, which the unembedding turns into the emotion's words; a
    constant makes neutral words win where there is none. Norms divide by nearly the same number always, since a large
    constant is part of every state, so that the model's readings are known in closed form (:meth:`Planted.reading`).

    Classes of components. ``true``: each carries its share. ``inert``: sees the emotion as a true one does, and writes
    where nothing reads. ``cancelling``: two that write the same with opposite signs; each alone matters, both together
    do not. ``backup``: silent as long as a certain true component is there, and its equal when that one is gone.

    Families. Llama; and Qwen3, because its norms on queries and keys take their sizes away, by which planted heads
    become certain in Llama: the one thing in this construction that depends on the family.

    Args:
        config: a ``LlamaConfig`` or ``Qwen3Config`` of any size with room for what is asked.
        heads: true heads per emotion.
        neurons: true neurons per emotion.
        decoys: how many of each other class per emotion, at heads and at neurons alike: ``{"inert": 1, "cancelling": 1
            (pairs), "backup": 1}``.
        leak: 0: all emotion names share one ordinary embedding; 1: each has one of its own, which ordinary heads carry
            to the last token; in between, a mixture.
        seed: of places, sizes, basis and ordinary weights.

    >>> from transformers import LlamaConfig
    >>> sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    >>> planted = build(LlamaConfig(vocab_size=256, **sizes), heads=1, neurons=2)
    >>> planted.truth["anger"]["true"]["heads"], round(planted.reading("anger"), 2)
    (((2, 0),), 9.97)

    Raises:
        ModelError: a family or configuration that cannot be planted, one too small for what is asked, or numbers that
            make no sense.
    """
    check_family(config)
    wanted = _checked(heads, neurons, dict(decoys or {}), leak)
    held = vocabulary(config.vocab_size)
    config = deepcopy(config)
    at = {word: held.words.index(word) for word in (BOS, END, PAD)}
    config.bos_token_id, config.eos_token_id, config.pad_token_id = at[BOS], at[END], at[PAD]
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():  # its own first weights are of no use, and the caller's random numbers stay his
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    sizes = sizes_of(model, architecture_of(model, model.config), model.config)
    emotions = PAPER_SIX.labels
    layout = plan(sizes, len(emotions), heads, neurons, wanted, draw)
    names = _directions(len(emotions), layout)
    if len(names) > (1 - ORDINARY) * sizes.width:
        raise ModelError(
            f"{len(names)} directions of the residual stream are needed, and of width {sizes.width} at most "
            f"{int((1 - ORDINARY) * sizes.width)} may be: take a wider model, or fewer backups"
        )
    writer = Writer(model, sizes, Frame(sizes.width, names, draw), layout, emotions, leak, draw)
    writer.fill(held)
    return Planted(
        model,
        tokenizer_of(held),
        emotions,
        {
            name: {kind: {site: _places(layout, site, e, kind) for site in SITES} for kind in CLASSES}
            for e, name in enumerate(emotions)
        },
        layout.partners,
        held.replies,
        {name: held.ids(reply) for name, reply in held.replies.items()},
        {name: {site: _falls(layout, site, e, len(emotions)) for site in SITES} for e, name in enumerate(emotions)},
        writer.reach,
        leak,
        seed,
        layout,
    )


def _checked(heads: int, neurons: int, decoys: dict[str, int], leak: float) -> dict[str, int]:
    strange = sorted(set(decoys) - set(DECOYS))
    if strange:
        raise ModelError(f"no decoys of class {strange[0]!r}: choose from {', '.join(DECOYS)}")
    for name, number, least in (("heads", heads, 1), ("neurons", neurons, 1), *((k, n, 0) for k, n in decoys.items())):
        if type(number) is not int or number < least:
            raise ModelError(f"{name}={number!r}: give a whole number from {least}")
    if not 0 <= leak <= 1:
        raise ModelError(f"leak={leak!r}: give a number from 0 to 1")
    if decoys.get(BACKUP, 0) > min(heads, neurons):
        raise ModelError(
            f"{decoys[BACKUP]} backups need as many true components to stand in for; there are {heads} heads and "
            f"{neurons} neurons"
        )
    return decoys


def _directions(emotions: int, layout: Layout) -> list[str]:
    """Names of the reserved directions."""
    parts = ("code", "copied", "output", "dead")
    markers = [f"{site} marker {at}" for site in SITES for at in range(layout.markers(site))]
    return ["constant", *(f"{part} {e}" for part in parts for e in range(emotions)), *markers]


def _places(layout: Layout, site: str, emotion: int, kind: str) -> tuple[Any, ...]:
    return tuple(sorted(one.place for one in layout.at(site) if (one.emotion, one.kind) == (emotion, kind)))


def _falls(layout: Layout, site: str, emotion: int, emotions: int) -> dict[Any, float]:
    """Fall of the reading for every planted component of an emotion, zeroed alone."""

    def reading(*removed: tuple[str, Any]) -> float:
        return logit_difference(layout, emotions, emotion, emotion, removed)

    mine = [one.place for kind in CLASSES for one in layout.at(site) if (one.emotion, one.kind) == (emotion, kind)]
    return {place: reading() - reading((site, place)) for place in mine}
