"""Training text: the mixture of prompts and replies the bundled model learns from."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emotrace.data.concepts import NEUTRAL, PAPER_SIX
from emotrace.data.prompts import prompt, render
from emotrace.data.sev import Group, Scenario
from emotrace.models.bundled.instructions import draw_free, draw_instruction
from emotrace.models.bundled.replies import STYLES, write_reply
from emotrace.models.bundled.scenes import PSEUDO_SHARE, Scene, draw_scene
from emotrace.models.bundled.vocabulary import Coin, pseudo_word

MIXTURE: Mapping[str, float] = {
    "exact": 0.20,
    "named": 0.08,
    "paraphrase": 0.12,
    "implied": 0.13,
    "negated": 0.13,
    "distractor": 0.09,
    "neutral": 0.11,
    "free": 0.06,
    "begun": 0.08,
}
"""Shares of the kinds of training samples. ``exact`` is the named instruction itself, ``free`` has no instruction or an
open one and a reply in any style, ``begun`` is a neutral prompt whose reply opens in an emotion: the opening itself is
not trained on, going on in that emotion is."""


@dataclass(frozen=True)
class Sample:
    """One training text.

    Attributes:
        prompt: the rendered prompt, generation prompt included.
        opening: first part of the reply that carries no loss (empty for most).
        rest: the rest of the reply.
        label: the reply's emotion, or neutral.
        kind: key of ``MIXTURE``.
        scene: what the prompt is about.
    """

    prompt: str
    opening: str
    rest: str
    label: str
    kind: str
    scene: Scene


def as_group(scene: Scene) -> Group:
    """The scene as a SEV group with its one event."""
    return Group(Scenario(scene.theme, scene.scenario, {scene.valence: scene.event}, "scene"), scene.valence)


def draw_sample(
    rng: random.Random,
    tokenizer: Any,
    split: str = "train",
    *,
    pseudo: float | None = None,
    wide: bool = False,
    coin: Coin = pseudo_word,
) -> Sample:
    """One sample of the mixture; ``tokenizer`` only lends its chat template.

    ``pseudo`` is the share of words that mean nothing: ``PSEUDO_SHARE`` in training, none elsewhere, unless given.
    ``wide`` adds templates of instructions; ``coin`` draws words that mean nothing.
    """
    kind = rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
    share = (PSEUDO_SHARE if split == "train" else 0.0) if pseudo is None else pseudo
    scene = draw_scene(rng, split, pseudo=share, coin=coin)
    label = rng.choice(PAPER_SIX.labels)
    messages: list[dict[str, str]]
    if kind == "free":
        label = rng.choice(STYLES)
        text = draw_free(rng)
        messages = [*prompt(as_group(scene), NEUTRAL, PAPER_SIX).messages[1:]]
        if text:
            messages = [{"role": "system", "content": f"{text}\n{PAPER_SIX.length_rule}"}, *messages]
    elif kind in ("neutral", "begun"):
        messages = [*prompt(as_group(scene), NEUTRAL, PAPER_SIX).messages]
    else:
        instruction = None if kind == "exact" else draw_instruction(rng, label, kind, split, wide=wide)
        messages = [*prompt(as_group(scene), label, PAPER_SIX, instruction=instruction).messages]
    label = NEUTRAL if kind == "neutral" else label
    reply, opened = write_reply(rng, scene, label)
    cut = opened if kind == "begun" else 0
    if kind == "begun" and not opened:
        cut = len(reply.split(" ")[0]) + 1 + len(reply.split(" ")[1])
    return Sample(
        render(tokenizer, messages), reply[:cut].rstrip(), reply[len(reply[:cut].rstrip()) :], label, kind, scene
    )
