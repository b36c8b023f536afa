"""Controls for a circuit: other components, the same size; and the same components, another direction."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from emotrace.models.traced import Model
from emotrace.steps.circuit import SITES, EmotionCircuit, from_components
from emotrace.steps.directions import Differences
from emotrace.trace.plan import Component
from emotrace.trace.weights import write_norms

Norms = torch.Tensor


class Controls:
    """Draws control circuits for one circuit.

    Args:
        model: the circuit's model.
        circuit: the circuit under test.
        differences: difference vectors of every component, from which controls take their own.
    """

    def __init__(self, model: Model, circuit: EmotionCircuit, differences: Differences) -> None:
        self.model, self.circuit, self.differences = model, circuit, differences

    def matched(self, seed: int, *, outside: bool = True) -> EmotionCircuit:
        """As many random components in every sublayer.

        Drawn outside the emotion's circuit; or, with ``outside=False``, from all of the sublayer, so that a circuit
        which is itself drawn at random is exchangeable with the draws, as a permutation test assumes.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = {
            e: {site: self._matched(site, e, generator, outside) for site in SITES} for e in self.circuit.emotions
        }
        return self._circuit(chosen, "matched")

    def anywhere(self, seed: int) -> EmotionCircuit:
        """As many random components in all, in any layer."""
        generator = torch.Generator().manual_seed(seed)
        chosen: dict[str, dict[str, list[Component]]] = {}
        for emotion in self.circuit.emotions:
            chosen[emotion] = {}
            for site in SITES:
                width = self.model.sizes.shape(site)[0]
                order = torch.randperm(self.model.sizes.layers * width, generator=generator)
                picked = order[: len(self.circuit.components(site, emotion))].tolist()
                chosen[emotion][site] = sorted((n // width, n % width) for n in picked)
        return self._circuit(chosen, "anywhere")

    def rescaled(self, other: EmotionCircuit) -> EmotionCircuit:
        """``other`` with its vectors scaled so that each sublayer's summed write has the norm of the circuit's."""
        return self._with_circuit_norms(other)

    def random_direction(self, seed: int) -> EmotionCircuit:
        """The circuit's own components with random vectors whose summed writes have the circuit's norms."""
        generator = torch.Generator().manual_seed(seed)
        drawn: dict[str, Any] = {
            f"{site}_{place}": {
                e: torch.randn(self.circuit.vectors(site, place, e).shape, generator=generator, dtype=torch.float64)
                for e in self.circuit.emotions
            }
            for site in SITES
            for place in ("last", "reply")
        }
        return self._with_circuit_norms(replace(self.circuit, **drawn))

    def norms(self, circuit: EmotionCircuit, places: Sequence[str] = ("last", "reply")) -> dict[tuple[str, ...], Norms]:
        """Norm of what the circuit's components of a site add in each layer, ``[L]`` at strength 1.

        By site, place and emotion; all of them are one request to a hosted model.
        """
        keys = [(site, place, e) for site in SITES for place in places for e in circuit.emotions]
        writes = [
            (site, circuit.components(site, emotion), circuit.vectors(site, place, emotion))
            for site, place, emotion in keys
        ]
        return dict(zip(keys, write_norms(self.model, writes), strict=True))

    def write_fraction(self, circuit: EmotionCircuit, sigma: torch.Tensor) -> float:
        """Largest summed write of any sublayer at the last token over the residual stream's norm, mean over emotions.

        ``sigma`` is the root mean square ``[L, 2]`` of neutral states, so the stream's norm is ``sigma * sqrt(D)``.
        """
        written, stream = self.norms(circuit, ("last",)), sigma * self.model.sizes.width**0.5
        fractions = [torch.stack([written[site, "last", e] for site in SITES], -1) / stream for e in circuit.emotions]
        return float(torch.stack(fractions).flatten(1).amax(-1).mean())

    def shortfall(self, circuit: EmotionCircuit) -> int:
        """How many components a matched control lacks because its sublayers have too few outside the circuit."""
        return sum(
            len(self.circuit.components(site, e)) - len(circuit.components(site, e))
            for site in SITES
            for e in self.circuit.emotions
        )

    def _matched(self, site: str, emotion: str, generator: torch.Generator, outside: bool) -> list[Component]:
        width = self.model.sizes.shape(site)[0]
        taken = set(self.circuit.components(site, emotion)) if outside else set()
        picked: list[Component] = []
        for layer, count in enumerate(self.circuit.counts(site, emotion, self.model.sizes.layers)):
            free = [(layer, index) for index in range(width) if (layer, index) not in taken]
            order = torch.randperm(len(free), generator=generator)[:count].tolist()
            picked += sorted(free[n] for n in order)
        return picked

    def _circuit(self, chosen: dict[str, dict[str, list[Component]]], name: str) -> EmotionCircuit:
        return from_components(
            self.model, self.differences, chosen, budgets=self.circuit.budgets, allocation=name, method="random"
        )

    @cached_property
    def _circuit_norms(self) -> dict[tuple[str, ...], Norms]:
        return self.norms(self.circuit)

    def _with_circuit_norms(self, other: EmotionCircuit) -> EmotionCircuit:
        fields: dict[str, Any] = {}
        norms, other_norms = self._circuit_norms, self.norms(other)
        for site in SITES:
            for place in ("last", "reply"):
                scaled = {}
                for emotion in other.emotions:
                    mine, theirs = norms[site, place, emotion], other_norms[site, place, emotion]
                    factors = torch.where(theirs > 0, mine / theirs.clamp(min=1e-300), torch.zeros_like(mine))
                    layers = torch.tensor([layer for layer, _ in other.components(site, emotion)], dtype=torch.int64)
                    scaled[emotion] = other.vectors(site, place, emotion) * factors[layers][:, None]
                fields[f"{site}_{place}"] = scaled
        return replace(other, **fields)
