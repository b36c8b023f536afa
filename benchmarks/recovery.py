"""Which components of a planted model are found: `python -m benchmarks recovery`.

Planted models (`emotrace.planted`) are constructed, so that their emotion components are known. Every number is a mean
over models of several seeds, each a mean over six emotions; behind it the standard deviation over seeds and the worst
seed. A model has 64 heads and 1,024 neurons; each emotion owns 2 heads and 4 neurons, and with decoys one inert
component, one cancelling pair and one backup more at either site. Precision is the share of true ones among the best as
many as are true, so recall at that size is the same number. `leak` is how much of an emotion name's identity its
ordinary embedding holds. All but analytic scores, activation differences and weight alignment read the logit
difference: an emotion's words minus the other emotions' words. Removal is single: a component takes its neutral value
on the emotion's prompt. Zeroing and reading the residual stream right behind (`et.causal_scores`) gives the analytic
scores, and is not listed again.

A score falls for a kind of decoy that takes more than a tenth of its choice; or for backups when more than a tenth more
of the true ones that have one are missing than are wrong without decoys.

Score, then confirm: candidates are the 8 heads and 8 neurons with the largest score, whatever its sign, by integrated
gradients, by analytic scores and by weight alignment, together; `et.confirm` sees them, the prompts and the reading,
and nothing of the truth. Ordinary components and those of other emotions are classed right as inert.

What this cannot claim. The construction has no superposition: every component writes along directions of its own, and
the circuit copies a label and turns it into words, so precision here does not predict precision on trained models. It
proves the pipeline right, and shows which score falls for which confound. Control saturates: circuits that are half
wrong still make the model say the emotion's words, so the strength of the logit difference stands beside the rate.
Heads and neurons driven together count twice, since driven heads already drive the neurons. Gradients at neutral
prompts miss every head because the planted neurons are flat or falling there, which trained ones need not be. The
decoys are textbook cases, each of which one kind of test tells apart: that all are told apart says that confirmation
makes those tests, not that real components fall into four classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import fmean, stdev
from typing import Any

from benchmarks.record import keep
from benchmarks.recovery_cases import LABELS, METHODS, SITES, Case, Trial
from emotrace.planted import CLASSES
from emotrace.steps.confirm import CLASSES as FOUND

Table = tuple[str, Sequence[Mapping[str, Any]]]
KINDS = CLASSES[1:]
ALL = "all decoys"
CASES = (
    *(Case(f"leak {leak:g}", leak=leak) for leak in (0.0, 0.1, 0.3, 1.0)),
    *(Case(kind, decoys={kind: 1}) for kind in KINDS),
    Case(ALL, decoys=dict.fromkeys(KINDS, 1)),
)
DRIVEN = ("analytic", "patch-in", "random")
DRIVEN_CASES = ("leak 0", "leak 1", ALL)
SEEDS = 20
FALLS = 0.1
"""A method falls for a decoy that fills more than this share of its choice, or hides more of what it stands in for."""


@dataclass(frozen=True)
class Mean:
    """Mean over seeds, standard deviation, and the lowest seed."""

    mean: float
    deviation: float
    lowest: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.deviation:.3f} ({self.lowest:.3f})"


def mean_of(values: Sequence[float]) -> Mean:
    """Summary of one value a seed.

    >>> str(mean_of([1.0, 0.5]))
    '0.750 ± 0.354 (0.500)'
    """
    return Mean(fmean(values), stdev(values) if len(values) > 1 else 0.0, min(values))


@dataclass(frozen=True)
class Outcome:
    """What was measured on one model.

    Attributes:
        case: name of the case.
        natural: share of unsteered replies with the emotion asked for, or neutral ones where none was.
        quality: by method and site.
        driven: by circuit and sites, in cases of ``DRIVEN_CASES``.
        classes: (site, label, class found) of every candidate, with all decoys.
        coverage: by site and class, share of planted components among candidates.
        cost: of the confirmation.
    """

    case: str
    natural: float
    quality: dict[tuple[str, str], dict[str, float]]
    driven: dict[tuple[str, str], dict[str, float]]
    classes: list[tuple[str, str, str]]
    coverage: dict[tuple[str, str], float]
    cost: dict[str, int]


def outcome(case: Case, seed: int) -> Outcome:
    """Everything on the model of one seed."""
    trial = Trial(case, seed)
    quality = {(method, site): trial.quality(method, site) for method in METHODS for site in SITES}
    classes: list[tuple[str, str, str]] = []
    coverage: dict[tuple[str, str], float] = {}
    cost: dict[str, int] = {}
    circuits = {method: trial.chosen(method) for method in DRIVEN if case.name in DRIVEN_CASES}
    if len(case.decoys) == len(KINDS):
        confirmation, classes = trial.confirmed()
        cost, emotions = confirmation.cost, trial.planted.emotions
        circuits["confirmed"] = {e: {s: confirmation.of_class("true", e, s) for s in SITES} for e in emotions}
        for site in SITES:
            for kind in CLASSES:
                seen = sum((where, label) == (site, kind) for where, label, _ in classes)
                coverage[site, kind] = seen / sum(len(trial.planted.components(e, site, kind)) for e in emotions)
    driven = {
        (name, " and ".join(sites)): trial.driven(chosen, sites)
        for name, chosen in circuits.items()
        for sites in (SITES, *((site,) for site in SITES))
    }
    natural = fmean(trial.planted.label(r.reply) == r.condition for r in trial.elicited.replies)
    return Outcome(case.name, natural, quality, driven, classes, coverage, cost)


class Found:
    """Outcomes of all models, by case."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.cases: dict[str, list[Outcome]] = {}
        for one in outcomes:
            self.cases.setdefault(one.case, []).append(one)

    def quality(self, case: str, method: str, site: str, column: str) -> list[float]:
        """One value a seed; none for a case that was not measured."""
        return [one.quality[method, site][column] for one in self.cases.get(case, ())]

    @property
    def confirmed(self) -> list[Outcome]:
        return [one for outcomes in self.cases.values() for one in outcomes if one.classes]


def right(label: str, found: str) -> bool:
    """Whether a class is the planted one; what is not planted for the emotion is inert to it.

    >>> right("backup", "backup"), right("ordinary", "inert"), right("ordinary", "true")
    (True, True, False)
    """
    return found == (label if label in CLASSES else "inert")


def main(*, seeds: int = SEEDS, cases: Sequence[Case] = CASES, workers: int = 1) -> str:
    """Measure and keep the tables; ``workers`` processes share the models."""
    asked = [(case, seed) for case in cases for seed in range(seeds)]
    if workers == 1:
        found = Found([outcome(*one) for one in asked])
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            found = Found(list(pool.map(outcome, *zip(*asked, strict=True))))
    tables = [
        *_qualities(found),
        ("Which decoy a score falls for, each kind alone", _falls(found)),
        *_shares(found),
        ("Neutral prompts driven by what was recovered", _driving(found)),
        *_confirmations(found),
    ]
    kept = [(caption, rows) for caption, rows in tables if rows]
    return keep("recovery", f"Recovery of planted components ({seeds} seeds)", kept, __doc__)


def _qualities(found: Found) -> list[Table]:
    tables = []
    for name, column in (("Precision at the true size", "true"), ("AUROC", "AUROC"), ("AUPRC", "AUPRC")):
        for site in SITES:
            rows = [
                {"method": method} | {case: mean_of(found.quality(case, method, site, column)) for case in found.cases}
                for method in METHODS
            ]
            tables.append((f"{name}, {site}: mean ± standard deviation (lowest seed)", rows))
    return tables


def _falls(found: Found) -> list[dict[str, Any]]:
    """Of each kind of decoy: its share of the choice; for backups, true ones that they hide as well."""
    if not {"leak 0", *KINDS} <= set(found.cases):
        return []
    rows = []
    for site in SITES:
        for method in METHODS:
            wrong = 1 - fmean(found.quality("leak 0", method, site, "true"))
            share = {kind: fmean(found.quality(kind, method, site, kind)) for kind in KINDS}
            hidden = fmean(found.quality("backup", method, site, "missed"))
            for_kinds = [kind for kind in KINDS if share[kind] > FALLS or (kind == "backup" and hidden - wrong > FALLS)]
            row = {"site": site, "method": method, "wrong without decoys": wrong}
            row |= {"inert in the choice": share["inert"], "cancelling in the choice": share["cancelling"]}
            row |= {"backups in the choice": share["backup"], "true ones hidden by a backup": hidden}
            rows.append(row | {"falls for": ", ".join(for_kinds) or "none"})
    return rows


def _shares(found: Found) -> list[Table]:
    tables = []
    for site in SITES if ALL in found.cases else ():
        rows = [
            {"method": method} | {label: fmean(found.quality(ALL, method, site, label)) for label in LABELS}
            for method in METHODS
        ]
        tables.append((f"What the best true-size {site} are, all decoys", rows))
    return tables


def _driving(found: Found) -> list[dict[str, Any]]:
    rows = []
    for case, outcomes in found.cases.items():
        for circuit, sites in outcomes[0].driven:
            row: dict[str, Any] = {"case": case, "circuit": circuit, "driven": sites}
            for site in SITES:
                scored = circuit in METHODS
                row[f"wrong {site}"] = 1 - fmean(found.quality(case, circuit, site, "true")) if scored else ""
            for name, column in (("expressed", "expressed"), ("logit difference, of natural", "of natural")):
                row[name] = mean_of([one.driven[circuit, sites][column] for one in outcomes])
            rows.append(row)
    return rows


def _confirmations(found: Found) -> list[Table]:
    outcomes = found.confirmed
    if not outcomes:
        return []
    rights = [fmean(right(label, word) for _, label, word in one.classes) for one in outcomes]
    everything = [one.natural for held in found.cases.values() for one in held]
    summary = {
        "candidates a model": fmean(len(one.classes) for one in outcomes),
        "right class": mean_of(rights),
        **{f"{name} a model": fmean(one.cost[name] for one in outcomes) for name in outcomes[0].cost},
        "unsteered replies right, all cases": mean_of(everything),
    }
    tables: list[Table] = [("Score, then confirm, all decoys", [summary])]
    for site in SITES:
        counts = Counter((label, word) for one in outcomes for where, label, word in one.classes if where == site)
        rows = []
        for label in LABELS:
            given = {word: counts[label, word] for word in FOUND}
            agreed = sum(count for word, count in given.items() if right(label, word))
            row: dict[str, Any] = {"planted": label, **given}
            row["right"] = agreed / sum(given.values()) if any(given.values()) else ""
            among = mean_of([one.coverage[site, label] for one in outcomes]) if label in CLASSES else ""
            rows.append(row | {"share of planted ones that are candidates": among})
        tables.append((f"Classes given to candidates, {site}", rows))
    return tables
