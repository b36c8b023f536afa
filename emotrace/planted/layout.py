"""Which heads and neurons a planted model gets, where they lie, and how much each one writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch

from emotrace.errors import ModelError
from emotrace.models.architectures import Sizes

TRUE, INERT, CANCELLING, BACKUP = CLASSES = ("true", "inert", "cancelling", "backup")
DECOYS = CLASSES[1:]
HEAD_DEPTH = 5 / 8
"""Heads lie in the first layers up to this depth, neurons behind them."""
GAIN = 8.0
JITTER = 0.1
PAIR = 1.5
"""Share of a member of a cancelling pair, in shares of a true component: apart from theirs, whatever the jitter, so
that a pair cancels its own partner and no true component."""

Place = tuple[int, int]


@dataclass(frozen=True)
class Head:
    """One planted head.

    Attributes:
        emotion: index of its emotion; it attends to that emotion's word and copies its code.
        kind: one of ``CLASSES``.
        place: (layer, head).
        share: of the emotion's natural copy (1) that it adds to it; an inert one adds it where nothing reads.
        marker: which marker it writes (a head with a backup) or is silenced by (the backup), or None.
    """

    emotion: int
    kind: str
    place: Place
    share: float
    marker: int | None = None


@dataclass(frozen=True)
class Neuron:
    """One planted neuron: ``silu(gain * c - threshold - silencer * marker) * up``, c the copy of its emotion's code.

    Attributes:
        emotion: index of its emotion.
        kind: one of ``CLASSES``.
        place: (layer, neuron).
        share: of the emotion's natural output (1) that it writes at c = 1; an inert one writes where nothing reads.
        gain: of the gate.
        constant: ``up`` is a constant and the gate has a threshold; otherwise ``up`` is c / 2, and there is none.
        marker: as in :class:`Head`.
    """

    emotion: int
    kind: str
    place: Place
    share: float
    gain: float
    constant: bool
    marker: int | None = None


@dataclass(frozen=True)
class Layout:
    """Every planted component, and which cancels or replaces which.

    Attributes:
        heads: in no order.
        neurons: in no order.
        partners: by site, the other member of each cancelling pair and the one that a backup stands in for.
    """

    heads: tuple[Head, ...]
    neurons: tuple[Neuron, ...]
    partners: Mapping[str, Mapping[Place, Place]]

    def at(self, site: str) -> tuple[Any, ...]:
        """``heads`` or ``neurons``."""
        return {"heads": self.heads, "neurons": self.neurons}[site]

    def markers(self, site: str) -> int:
        """How many markers the components of a site need."""
        return sum(one.kind == BACKUP for one in self.at(site))


def head_layers(layers: int) -> int:
    """How many layers, from the first, may hold planted heads.

    >>> head_layers(8), head_layers(2)
    (5, 1)
    """
    return min(layers - 1, ceil(HEAD_DEPTH * layers))


def plan(
    sizes: Sizes, emotions: int, heads: int, neurons: int, decoys: Mapping[str, int], draw: torch.Generator
) -> Layout:
    """Draw places, shares and gains; ``heads``, ``neurons`` and ``decoys`` are numbers per emotion and site.

    Raises:
        ModelError: the model has too few layers, heads or neurons.
    """
    if sizes.layers < 2:
        raise ModelError(
            f"a planted model needs 2 layers, one for heads and one behind it for neurons; this has {sizes.layers}"
        )
    behind = head_layers(sizes.layers)
    found: dict[str, list[Any]] = {}
    partners: dict[str, dict[Place, Place]] = {}
    zones = (("heads", heads, range(behind)), ("neurons", neurons, range(behind, sizes.layers)))
    for site, count, zone in zones:
        kinds = _kinds(count, decoys)
        width = sizes.shape(site)[0]
        needed, room = emotions * len(kinds), len(zone) * (width if site == "heads" else width // 2)
        if needed > room:
            raise ModelError(
                f"{needed} {site} are asked for ({emotions} emotions, {len(kinds)} each), and layers {zone[0]} to "
                f"{zone[-1]} have room for {room}: ask for fewer, or take a larger configuration"
            )
        if decoys.get(BACKUP) and len(zone) < 2:
            raise ModelError(
                f"backup {site} lie in a later layer than what they stand in for, and only layer {zone[0]} may hold "
                f"planted {site}: take more layers"
            )
        places = _places(zone, width, emotions, kinds, site, draw)
        found[site], partners[site] = _components(site, emotions, count, kinds, places, draw)
    return Layout(tuple(found["heads"]), tuple(found["neurons"]), partners)


def _kinds(count: int, decoys: Mapping[str, int]) -> list[tuple[str, int]]:
    """(class, number within it) of one emotion's components; the first true ones have the backups."""
    pairs = [(CANCELLING, at) for at in range(2 * decoys.get(CANCELLING, 0))]
    others = [(kind, at) for kind in (INERT, BACKUP) for at in range(decoys.get(kind, 0))]
    return [(TRUE, at) for at in range(count)] + pairs + others


def _places(
    zone: range, width: int, emotions: int, kinds: list[tuple[str, int]], site: str, draw: torch.Generator
) -> dict[tuple[int, str, int], Place]:
    """A place for every component, at random, but for two rules.

    A backup lies in a later layer than what it stands in for; and a true head of some emotion lies in layer 0, so that
    there is a difference between emotions behind every sublayer.
    """
    wanted = [(e, kind, at) for e in range(emotions) for kind, at in kinds]
    slots = [(layer, index) for layer in zone for index in range(width)]
    order = torch.randperm(len(slots), generator=draw).tolist()

    def layer_of(name: tuple[int, str, int]) -> int:
        return slots[order[wanted.index(name)]][0]

    def backed(name: tuple[int, str, int]) -> tuple[int, str, int]:
        return name[0], TRUE, name[2]

    for _ in range(10_000):
        late = [name for name in wanted if name[1] == BACKUP and layer_of(name) <= layer_of(backed(name))]
        misplaced = late + [backed(name) for name in late]
        if site == "heads" and all(layer_of((e, TRUE, 0)) for e in range(emotions)):
            misplaced += [(e, TRUE, 0) for e in range(emotions)]
        if not misplaced:
            return {name: slots[order[n]] for n, name in enumerate(wanted)}
        one = wanted.index(misplaced[int(torch.randint(len(misplaced), (1,), generator=draw))])
        other = int(torch.randint(len(slots), (1,), generator=draw))
        order[one], order[other] = order[other], order[one]
    raise ModelError(f"no room for backup {site} behind what they stand in for: ask for fewer, or take more layers")


def _components(
    site: str,
    emotions: int,
    count: int,
    kinds: list[tuple[str, int]],
    places: Mapping[tuple[int, str, int], Place],
    draw: torch.Generator,
) -> tuple[list[Any], dict[Place, Place]]:
    """Components of a site with their shares, and who is whose partner."""
    backups = sum(kind == BACKUP for kind, _ in kinds)
    found: list[Neuron] = []
    partners: dict[Place, Place] = {}

    def jittered(size: float, most: float = JITTER) -> float:
        return size * (1 + most * (2 * float(torch.rand(1, generator=draw)) - 1))

    for e in range(emotions):
        mine: dict[tuple[str, int], Neuron] = {}
        for kind, at in kinds:
            place, twin = places[e, kind, at], None
            share, gain, constant, marker = jittered(1 / count), jittered(GAIN), at % 2 == 1, None
            if kind == CANCELLING:
                share, constant = jittered(PAIR / count, JITTER / 2), at % 4 == 2
                if at % 2:
                    twin = mine[CANCELLING, at - 1]
                    share, gain, constant = -twin.share, twin.gain, twin.constant
            elif kind == BACKUP:
                twin = mine[TRUE, at]
                share, gain, constant, marker = twin.share, twin.gain, twin.constant, twin.marker
            elif kind == TRUE and at < backups:  # no constant: at rest it writes nothing, and no marker
                constant, marker = False, e * backups + at
            if twin is not None:
                partners |= {place: twin.place, twin.place: place}
            mine[kind, at] = Neuron(e, kind, place, share, gain, constant, marker)
        found += mine.values()
    if site == "neurons":
        return found, partners
    return [Head(n.emotion, n.kind, n.place, n.share, n.marker) for n in found], partners
