"""What a planted model says, in closed form: a few scalars in place of its forward pass."""

from collections.abc import Collection
from math import exp

from emotrace.planted.layout import BACKUP, CANCELLING, INERT, TRUE, Head, Layout, Neuron, Place

LOGIT = 10.0
"""Logit that the natural output of an emotion gives its words."""
THRESHOLD = 2.0
"""Of gates whose up is constant: where nothing is copied, more of it lowers such a neuron at first."""
CONSTANT_UP = 0.5
SILENCER = 40.0
"""What a marker takes off a backup neuron's gate: five times what a natural copy gives it."""
Removed = Collection[tuple[str, Place]]


def silu(x: float) -> float:
    """``x / (1 + exp(-x))``."""
    return x / (1 + exp(-x)) if x > -700 else 0.0


def activation(neuron: Neuron, copied: float, marker: float = 0.0) -> float:
    """Activation of a planted neuron where the copy of its emotion's code is ``copied`` (1 is natural).

    >>> one = Neuron(0, "true", (5, 3), 1.0, gain=8.0, constant=False)
    >>> activation(one, 0.0), round(activation(one, 1.0), 3)
    (0.0, 3.999)
    """
    if neuron.constant:
        return silu(neuron.gain * copied - THRESHOLD) * CONSTANT_UP
    return silu(neuron.gain * copied - SILENCER * marker) * copied / 2


def natural(neuron: Neuron) -> float:
    """Activation where the copy is natural and no marker silences the neuron."""
    return activation(neuron, 1.0)


def copied(layout: Layout, emotion: int, removed: Removed = ()) -> float:
    """Copy of the emotion's code at the last token of its prompt, in units of the natural one."""
    mine: list[Head] = [head for head in layout.heads if head.emotion == emotion]
    gone = {place for site, place in removed if site == "heads"}
    total = 0.0
    for head in mine:
        dormant = head.kind == BACKUP and layout.partners["heads"][head.place] not in gone
        if head.kind != INERT and head.place not in gone and not dormant:
            total += head.share
    return total


def output(layout: Layout, emotion: int, copy: float, removed: Removed = ()) -> float:
    """What an emotion's neurons write along its output direction, in units of the natural output."""
    gone = {place for site, place in removed if site == "neurons"}
    mine: dict[Place, Neuron] = {n.place: n for n in layout.neurons if n.emotion == emotion}
    total = 0.0
    for place, neuron in mine.items():
        if place in gone:
            continue
        if neuron.kind in (TRUE, CANCELLING):
            total += neuron.share * activation(neuron, copy) / natural(neuron)
        elif neuron.kind == BACKUP:
            first = mine[layout.partners["neurons"][place]]
            marker = 0.0 if first.place in gone else activation(first, copy) / natural(first)
            total += neuron.share * activation(neuron, copy, marker) / natural(neuron)
    return total


def logit_difference(layout: Layout, emotions: int, asked: int | None, read: int, removed: Removed = ()) -> float:
    """Mean logit of emotion ``read``'s words minus that of the other emotions' words, where ``asked`` was asked for.

    Args:
        layout: of the model.
        emotions: how many there are.
        asked: the prompt's emotion, or None for the neutral prompt.
        read: the emotion whose words are read.
        removed: (site, place) of components that are zeroed.
    """
    outputs = [output(layout, e, copied(layout, e, removed) if e == asked else 0.0, removed) for e in range(emotions)]
    others = [value for e, value in enumerate(outputs) if e != read]
    return LOGIT * (outputs[read] - sum(others) / len(others))
