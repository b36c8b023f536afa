"""What a circuit's components do one by one and together: sufficiency, necessity, completeness, minimality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emotrace.errors import CircuitError
from emotrace.formulas.faithfulness import Ratio, faithfulness
from emotrace.formulas.statistics import benjamini_hochberg, draws_p, max_statistic_test, sign_flip_test
from emotrace.steps.circuit import SITES, EmotionCircuit
from emotrace.steps.components import Scores
from emotrace.steps.quality import Bench, halves, in_turn, kept_by, less, parts, pooled_ratio, without
from emotrace.trace.kept import Variant
from emotrace.trace.plan import Component

Floats = NDArray[np.float64]
FALSE_DISCOVERIES = 0.05
LEAST_FALL = 0.01
"""Fall of f below which a component is not called needed, however sure the fall is."""


@dataclass(frozen=True)
class AgainstRandom:
    """Faithfulness of the circuit beside that of random circuits with as many components in every sublayer.

    Attributes:
        circuit: f of the circuit (kept alone, or removed), with its interval over scenarios.
        random: f of each draw.
        p: share of draws at least as far in the circuit's favour, (1 + n) / (1 + draws); NaN where f is undefined.
        by_emotion: emotion -> (f of the circuit, mean f of the draws, p).
    """

    circuit: Ratio
    random: Floats
    p: float
    by_emotion: Mapping[str, tuple[float, float, float]]


def against_random(
    bench: Bench,
    circuit: EmotionCircuit,
    controls: Sequence[EmotionCircuit],
    *,
    removed: bool = False,
    seed: int = 0,
) -> AgainstRandom:
    """Is the circuit alone sufficient, or with ``removed`` is it in part necessary, beyond random ones of its size?

    Sufficient: everything else ablated, f is higher than with a random circuit in its place. Necessary: the circuit
    ablated and everything else left, f is lower than without a random one. A permutation test over draws.

    Args:
        bench: prompts and directions.
        circuit: the circuit.
        controls: random circuits, :meth:`emotrace.steps.random_circuits.Controls.matched`.
        removed: ablate the circuit in place of everything else.
        seed: of the bootstrap.
    """
    drawn = {f"draw {n}": kept_by(control, outside=removed) for n, control in enumerate(controls)}
    m = bench.read({"circuit": kept_by(circuit, outside=removed), **drawn}, "removed" if removed else "alone")
    names = ["circuit", *drawn]
    own = pooled_ratio(m, ["circuit"], seed)
    values = pooled_ratio(m, names, seed).values
    tail: Literal["less", "greater"] = "less" if removed else "greater"

    def p_of(found: Floats) -> float:
        return draws_p(found[0], found[1:], alternative=tail) if np.isfinite(found).all() else float("nan")

    by_emotion = {}
    for e, emotion in enumerate(bench.emotions):
        stacked = np.stack([m[name][:, e] for name in names])
        each = faithfulness(stacked, m["empty"][:, e], m["full"][:, e], seed=seed).values
        by_emotion[emotion] = (float(each[0]), float(each[1:].mean()), p_of(each))
    return AgainstRandom(own, values[1:], p_of(values), by_emotion)


def in_words(
    bench: Bench, circuit: EmotionCircuit, controls: Sequence[EmotionCircuit], seed: int
) -> tuple[tuple[str, ...], Ratio]:
    """f of the circuit alone and of the model without it, beside random circuits, which groups take in turn.

    For prompts that ask in other words than those the circuit was found on.
    """
    variants = {
        "alone": kept_by(circuit),
        "alone_random": in_turn([kept_by(c) for c in controls]),
        "removed": kept_by(circuit, outside=True),
        "removed_random": in_turn([kept_by(c, outside=True) for c in controls]),
    }
    return tuple(variants), pooled_ratio(bench.read(variants, "wordings"), list(variants), seed)


@dataclass(frozen=True)
class Completeness:
    """f without some of the circuit's components, of the circuit and of the whole model: equal where it is complete.

    Attributes:
        names: S sets of components: each site, then random halves.
        circuit: f of the circuit without the set, ``[S]``.
        model: f of the whole model without it, ``[S]``.
        undefined: why there are no values (NaN), or "".
    """

    names: tuple[str, ...]
    circuit: Floats
    model: Floats
    undefined: str = ""

    @property
    def gaps(self) -> Floats:
        """``|f(C without K) - f(M without K)|`` of every set K."""
        return np.abs(self.circuit - self.model)


def completeness(bench: Bench, circuit: EmotionCircuit, *, subsets: int = 8, seed: int = 0) -> Completeness:
    """Does the circuit fail where the model does, when the same components K are taken from both?

    K is each site's whole share, and random halves. Wang et al. 2023 (IOI, section 4.1) search for the worst K as well.
    """
    sets: dict[str, dict[str, dict[str, list[Component]]]] = {
        f"all {site}": {e: {site: circuit.components(site, e)} for e in circuit.emotions}
        for site in SITES
        if any(circuit.components(site, e) for e in circuit.emotions)
    }
    sets |= {f"half {n + 1}": half for n, half in enumerate(halves(circuit, subsets, seed))}
    variants: dict[str, Variant] = {f"circuit {name}": less(circuit, removed) for name, removed in sets.items()}
    variants |= {f"model {name}": without(circuit.emotions, removed) for name, removed in sets.items()}
    m = bench.read(variants, "completeness")
    mine, whole = (pooled_ratio(m, [f"{kind} {name}" for name in sets], seed) for kind in ("circuit", "model"))
    return Completeness(tuple(sets), mine.values, whole.values, mine.undefined)


@dataclass(frozen=True)
class Singles:
    """What single components of one emotion contribute.

    Attributes:
        components: K of (site, layer, index).
        drops: fall of f when the component is ablated too, ``[K]``.
        p: of "the sign of the fall is chance", by scenario, adjusted over the K components, ``[K]``.
        adjusted: how p is adjusted.
        undefined: why f, and with it every drop (NaN), is undefined, or "".
    """

    components: tuple[tuple[str, int, int], ...]
    drops: Floats
    p: Floats
    adjusted: str
    undefined: str = ""

    @property
    def detected(self) -> NDArray[np.bool_]:
        """Components whose removal lowers f, by however little; false discoveries (or any false one) held at 5 %."""
        return (self.p <= FALSE_DISCOVERIES) & (self.drops > 0)

    @property
    def needed(self) -> NDArray[np.bool_]:
        """Those of them that cost at least ``LEAST_FALL`` of f."""
        return self.detected & (self.drops >= LEAST_FALL)


def minimality(
    bench: Bench, circuit: EmotionCircuit, scores: Scores, *, tested: int = 100, seed: int = 0
) -> dict[str, Singles]:
    """Which components could the circuit spare: the fall of f when one more is ablated, tested by scenario.

    Benjamini-Hochberg over each emotion's tested components, heads and neurons together: all heads, then the neurons
    of the best scores, ``tested`` in all. Source: Wang et al. 2023 (IOI), section 4.2, with K empty.
    """
    listed = {emotion: _best(circuit, scores, emotion)[:tested] for emotion in circuit.emotions}
    most = max(map(len, listed.values()))

    def at(place: int) -> dict[str, dict[str, list[Component]]]:
        """The component at this place of each emotion's list; an emotion with fewer loses none."""
        return {e: {site: [c] for site, c in held[place : place + 1]} for e, held in listed.items()}

    variants = {f"less {n}": less(circuit, at(n)) for n in range(most)}
    m = bench.read({"circuit": kept_by(circuit), **variants}, "minimality")
    found = {}
    for e, emotion in enumerate(bench.emotions):
        falls = np.stack([m["circuit"][:, e] - m[f"less {n}"][:, e] for n in range(len(listed[emotion]))], -1)
        found[emotion] = _singles(m, e, listed[emotion], falls, seed, "benjamini-hochberg")
    return found


def _best(circuit: EmotionCircuit, scores: Scores, emotion: str) -> list[tuple[str, Component]]:
    """Heads, then neurons of one emotion's circuit, each by falling score."""
    e, found = scores.emotions.index(emotion), []
    for site, components in parts(circuit, emotion).items():
        values = scores.at(site)[e]
        found += [(site, c) for c in sorted(components, key=lambda c, values=values: -float(values[c]))]  # type: ignore[misc]
    return found


def best_heads(bench: Bench, candidates: Mapping[str, Sequence[Component]], *, seed: int = 0) -> dict[str, Singles]:
    """Does the model need any of some heads singly: the fall of f when one is ablated and nothing else.

    Single-step max-statistic p values, so that the best of many is not taken for more than it is. Candidates come from
    other scenarios than the bench's.
    """
    most = max(map(len, candidates.values()))
    if not most:
        raise CircuitError("no heads to remove: name at least one candidate")
    sets = [{e: {"heads": list(held[n : n + 1])} for e, held in candidates.items()} for n in range(most)]
    m = bench.read({f"without {n}": without(bench.emotions, removed) for n, removed in enumerate(sets)}, "best_heads")
    found = {}
    for e, emotion in enumerate(bench.emotions):
        held = [("heads", component) for component in candidates[emotion]]
        falls = np.stack([m["full"][:, e] - m[f"without {n}"][:, e] for n in range(len(held))], -1)
        found[emotion] = _singles(m, e, held, falls, seed, "max-statistic")
    return found


def _singles(
    m: Mapping[str, Floats],
    emotion: int,
    listed: Sequence[tuple[str, Component]],
    falls: Floats,
    seed: int,
    adjusted: str,
) -> Singles:
    """From falls of m ``[G, K]``."""
    components = tuple((site, layer, index) for site, (layer, index) in listed)
    empty, full = m["empty"][:, emotion], m["full"][:, emotion]
    undefined = faithfulness(full[None], empty, full, seed=seed).undefined
    if undefined or not components:
        nothing = np.full(len(components), np.nan)
        return Singles(components, nothing, nothing, adjusted, undefined)
    clusters = np.arange(len(falls))
    if adjusted == "max-statistic":
        p = max_statistic_test(falls, clusters, seed=seed).adjusted
    else:
        p = benjamini_hochberg(sign_flip_test(falls, clusters, seed=seed)).adjusted
    return Singles(components, falls.mean(0) / float((full - empty).mean()), p, adjusted)
