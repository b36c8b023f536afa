"""How good a circuit is: what it accounts for alone, what fails without it, what it lacks and what it could spare."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emotrace.errors import CircuitError
from emotrace.formulas.faithfulness import Ratio, faithfulness
from emotrace.ledger import Ledger
from emotrace.models.load import as_model
from emotrace.models.traced import Model
from emotrace.steps.circuit import SITES, EmotionCircuit
from emotrace.steps.components import Scores
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.inputs import check_prompts, check_shape
from emotrace.trace.kept import EVERYTHING, NOTHING, Kept, Variant
from emotrace.trace.outside import kept_readings
from emotrace.trace.plan import Component

Floats = NDArray[np.float64]
Parts = Mapping[str, Sequence[Component]]
"""Components by site."""

SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Bench:
    """Prompts and directions on which sets of components are compared.

    The measure m of a prompt is the projection of the last token's final state (after the final norm) on the reference
    direction of the emotion asked for.

    Attributes:
        model: an :class:`emotrace.Model` or your nnsight model.
        emotions: E names.
        prompts: G groups with the token ids of one prompt for each emotion; groups are the units of every interval.
        reference: ``[E, D]`` unit directions, :attr:`emotrace.Directions.reference`.
        ablation: what becomes of an ablated component: ``zero``, ``mean`` or ``resample``
            (:func:`emotrace.trace.outside.kept_readings`).
        tokens: where: at ``all`` tokens, or at the ``last`` prompt token.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.
        name: the ledger's name for this work.
    """

    model: Any
    emotions: tuple[str, ...]
    prompts: Sequence[Sequence[Sequence[int]]]
    reference: torch.Tensor
    ablation: str = "mean"
    tokens: str = "all"
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    ledger: Ledger | None = None
    name: str = "quality"

    def read(self, variants: Mapping[str, Variant], what: str) -> dict[str, Floats]:
        """m under every variant, ``full`` (nothing ablated) and ``empty`` (everything) added: float64 ``[G, E]``.

        ``what`` names the work in the ledger, where each piece of work needs its own name.

        Raises:
            CircuitError: a variant that does not name every emotion.
            DataError: malformed prompts, an unknown ablation, or directions of another model.
        """
        model = as_model(self.model)
        check_shape(model, "directions", self.reference.shape, (len(self.emotions), model.sizes.width))
        for group in self.prompts:
            check_prompts(model, group)
        count = len(self.emotions)
        asked = {"full": [[EVERYTHING] * count], "empty": [[NOTHING] * count], **variants}
        short = [name for name, draws in asked.items() if not draws or any(len(kept) != count for kept in draws)]
        if short:
            raise CircuitError(f"{short[0]!r} must say for each of {count} emotions what is kept")
        found = kept_readings(
            model,
            self.prompts,
            list(asked.values()),
            self.ablation,
            self.reference,
            tokens=self.tokens,
            batch_tokens=self.batch_tokens,
            ledger=self.ledger,
            name=f"{self.name}_{what}",
        )
        own = found.diagonal(dim1=2, dim2=3).numpy()
        return dict(zip(asked, own, strict=True))


def kept_by(circuit: EmotionCircuit, *, outside: bool = False) -> Variant:
    """A circuit alone, or with ``outside`` everything but the circuit."""
    return [[Kept(parts(circuit, emotion), outside) for emotion in circuit.emotions]]


def parts(circuit: EmotionCircuit, emotion: str) -> dict[str, list[Component]]:
    """The components of one emotion by site."""
    return {site: circuit.components(site, emotion) for site in SITES}


def in_turn(variants: Sequence[Variant]) -> Variant:
    """Several variants as draws of one: groups take them in turn."""
    return [draw for variant in variants for draw in variant]


def best_at(model: Model, scores: Scores, share: float) -> Variant:
    """The best ``share`` of all heads and of all neurons by score, for each emotion; one of each kind at least."""
    counts = _counts(model, share)
    return [[Kept({site: scores.top(site, e, counts[site]) for site in model.sites}) for e in scores.emotions]]


def random_at(model: Model, emotions: int, share: float, draws: int, seed: int) -> Variant:
    """As many random heads and neurons, ``draws`` times."""
    counts = _counts(model, share)
    generator = torch.Generator().manual_seed(seed)

    def some(site: str) -> list[Component]:
        width = model.sizes.shape(site)[0]
        order = torch.randperm(model.sizes.layers * width, generator=generator)[: counts[site]].tolist()
        return [(n // width, n % width) for n in order]

    return [[Kept({site: some(site) for site in model.sites}) for _ in range(emotions)] for _ in range(draws)]


def _counts(model: Model, share: float) -> dict[str, int]:
    return {site: max(1, round(share * model.sizes.count(site))) for site in model.sites}


@dataclass(frozen=True)
class FaithfulnessCurve:
    """Faithfulness over budgets, on one bench.

    Attributes:
        shares: K shares of components, from 0 to 1.
        best: of the best components by score, with areas.
        random: of random components, with areas.
        circuit: of the circuit itself, one value.
        by_emotion: of the best components, emotion by emotion.
        full: mean m of the whole model.
        empty: mean m with everything ablated.
    """

    shares: tuple[float, ...]
    best: Ratio
    random: Ratio
    circuit: Ratio
    by_emotion: Mapping[str, Ratio]
    full: float
    empty: float


def faithfulness_curve(
    bench: Bench,
    circuit: EmotionCircuit,
    scores: Scores,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
) -> FaithfulnessCurve:
    """Faithfulness of the best components of every budget, of random ones, and of the circuit (README, Quality).

    At a share of components the best by score are kept wherever they are, heads and neurons each by that share. Every
    group has random components of its own, so that the band over groups is one over draws.

    Args:
        bench: prompts and directions.
        circuit: the circuit.
        scores: what "best" means.
        shares: between 0 and 1, which are added.
        seed: of draws and bootstrap.
    """
    model, inner = as_model(bench.model), sorted({share for share in shares if 0 < share < 1})
    variants: dict[str, Variant] = {"circuit": kept_by(circuit)}
    for share in inner:
        variants[f"best {share:g}"] = best_at(model, scores, share)
        variants[f"random {share:g}"] = random_at(
            model, len(bench.emotions), share, len(bench.prompts), seed + round(1e6 * share)
        )
    m = bench.read(variants, "curve")
    every = np.array([0.0, *inner, 1.0])

    def ratio(kind: str, over: Callable[[Floats], Floats]) -> Ratio:
        names = ["empty", *(f"{kind} {share:g}" for share in inner), "full"]
        values = np.stack([over(m[name]) for name in names])
        return faithfulness(values, over(m["empty"]), over(m["full"]), shares=every, seed=seed)

    return FaithfulnessCurve(
        tuple(every.tolist()),
        ratio("best", pooled),
        ratio("random", pooled),
        pooled_ratio(m, ["circuit"], seed),
        {emotion: ratio("best", lambda values, e=e: values[:, e]) for e, emotion in enumerate(bench.emotions)},  # type: ignore[misc]
        float(m["full"].mean()),
        float(m["empty"].mean()),
    )


def pooled(values: Floats) -> Floats:
    """``[G, E]`` to one value per group, ``[G]``."""
    return np.asarray(values.mean(-1))


def pooled_ratio(m: Mapping[str, Floats], names: Sequence[str], seed: int) -> Ratio:
    """Faithfulness of some variants, mean over emotions."""
    return faithfulness(np.stack([pooled(m[n]) for n in names]), pooled(m["empty"]), pooled(m["full"]), seed=seed)


def halves(circuit: EmotionCircuit, count: int, seed: int) -> Iterator[dict[str, dict[str, list[Component]]]]:
    """Random halves of the circuit's components, emotion -> site -> components, ``count`` times."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield {
            e: {
                site: [component for component in held if torch.rand((), generator=generator) < 0.5]
                for site, held in parts(circuit, e).items()
            }
            for e in circuit.emotions
        }


def less(circuit: EmotionCircuit, removed: Mapping[str, Parts]) -> Variant:
    """The circuit without some of its components."""
    kept = []
    for emotion in circuit.emotions:
        gone = {site: set(components) for site, components in removed[emotion].items()}
        held = parts(circuit, emotion)
        kept.append(Kept({site: [c for c in held[site] if c not in gone.get(site, ())] for site in held}))
    return [kept]


def without(emotions: Sequence[str], removed: Mapping[str, Parts]) -> Variant:
    """The whole model without some components."""
    return [[Kept(removed[e], outside=True) for e in emotions]]
