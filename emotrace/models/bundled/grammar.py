"""The corpus grammar of the bundled model: scenarios, replies and instructions, all drawn from readable tables.

``sample_scenario`` draws the parts and texts of a scenario with one event; ``sample_reply`` writes a reply about it in
one emotion or in none. Both take a ``random.Random`` and are deterministic given its state.
"""

import random

from emotrace.models.bundled.instructions import draw_instruction, held_out_instructions
from emotrace.models.bundled.replies import STYLES, write_reply
from emotrace.models.bundled.scenes import PSEUDO_SHARE, Scene, draw_scene, read_scene

__all__ = [
    "PSEUDO_SHARE",
    "STYLES",
    "Scene",
    "draw_instruction",
    "held_out_instructions",
    "read_scene",
    "sample_reply",
    "sample_scenario",
]


def sample_scenario(
    rng: random.Random, split: str = "train", *, valence: str | None = None, pseudo: float = 0.0
) -> Scene:
    """A scene of ``split`` (train, validation, test); its ``scenario`` and ``event`` are the texts of a prompt.

    Objects, persons, event phrases, times and frames of validation and test occur in no other split.
    """
    return draw_scene(rng, split, valence=valence, pseudo=pseudo)


def sample_reply(rng: random.Random, scenario_parts: Scene, emotion: str) -> str:
    """A reply of one or two sentences about ``scenario_parts`` in ``emotion`` (one of ``STYLES``, neutral included)."""
    return write_reply(rng, scenario_parts, emotion)[0]
