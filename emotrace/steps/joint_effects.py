"""What sets of components do to a reading, put in on neutral prompts or removed on the emotion's."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotrace.formulas.statistics import Interval, cluster_bootstrap
from emotrace.ledger import Ledger, Record
from emotrace.models.traced import Model
from emotrace.trace import edits
from emotrace.trace.batches import plan_batches
from emotrace.trace.joint import last_token_readings
from emotrace.trace.plan import Plan
from emotrace.trace.record import Activations, record
from emotrace.trace.requests import Batches, mapped

PATCH_IN, REMOVAL = "patch_in", "removal"
KINDS = (PATCH_IN, REMOVAL)

Site = tuple[str, int, int]
"""A component with its site: (``heads`` or ``neurons``, layer, index)."""
Members = frozenset[Site]
NOBODY: Members = frozenset()


@dataclass
class JointEffects:
    """Effects of sets of components of one emotion, on N pairs of prompts; what was measured is kept.

    A set is put in by giving every member, at the last token of a neutral prompt, its value of the emotion's prompt of
    the same group; it is removed by giving every member, at the last token of the emotion's prompt, its value of the
    neutral prompt, or zero. The prompts' beginnings are read once for all sets of a call of :meth:`measure`.

    Attributes:
        model: any model.
        name: of the emotion, for the ledger.
        prompts: per kind, token ids of the N prompts that are edited: neutral ones for ``patch_in``, the emotion's for
            ``removal``.
        clusters: N scenarios.
        members: all candidates.
        zero: remove by zeroing.
        reading: ``direction`` or ``metric``, of :func:`emotrace.trace.joint.last_token_readings`.
        seed: of intervals.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.
        cost: passes, rows (prompts times sets) and tokens so far; a beginning that prompts share counts for each.
    """

    model: Model
    name: str
    prompts: dict[str, list[list[int]]]
    clusters: Sequence[Hashable]
    members: Sequence[Site]
    zero: bool
    reading: dict[str, Any]
    seed: int
    batch_tokens: int
    ledger: Ledger | None
    cost: dict[str, int] = field(default_factory=lambda: {"passes": 0, "rows": 0, "tokens": 0})

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, Members], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self._rounds = 0
        self._unit = 1.0
        self._values = {kind: self._recorded(self.prompts[kind]) for kind in KINDS}
        self.measure(NOBODY, kinds=KINDS)
        self._unit = float(np.mean(self.full))

    @property
    def full(self) -> NDArray[np.float64]:
        """Reading of the emotion's prompts minus that of the neutral ones, ``[N]``."""
        return self._known[REMOVAL, NOBODY][0] - self._known[PATCH_IN, NOBODY][0]

    def full_interval(self) -> Interval:
        """Mean of :attr:`full`, in units of the reading."""
        return cluster_bootstrap(self.full, self.clusters, seed=self.seed)

    def measure(self, *sets: Members, kinds: Iterable[str]) -> None:
        """Measure those sets that are not known; one call, one reading of the prompts' beginnings."""
        for kind in kinds:
            asked = [one for one in dict.fromkeys(sets) if (kind, one) not in self._known]
            if asked:
                self._measure(kind, asked)

    def effects(self, kind: str, members: Members) -> NDArray[np.float64]:
        """Rise (``patch_in``) or fall (``removal``) of the reading in shares of the mean full effect, ``[N]``."""
        change = self._known[kind, members][0] - self._known[kind, NOBODY][0]
        return np.asarray((change if kind == PATCH_IN else -change) / self._unit)

    def effect(self, kind: str, members: Members) -> Interval:
        """Mean effect with its interval over scenarios; the mean full effect counts as known."""
        return self.interval(self.effects(kind, members))

    def beyond(self, gone: Members, members: Members) -> Interval:
        """What removing ``members`` takes away when others are ``gone``, beyond what it takes away alone."""
        joint = self.effects(REMOVAL, gone | members) - self.effects(REMOVAL, gone)
        return self.interval(joint - self.effects(REMOVAL, members))

    def moved(self, kind: str, members: Members) -> float:
        """Mean distance that the final state moves."""
        return float(np.mean(self._known[kind, members][1]))

    def interval(self, values: NDArray[np.float64]) -> Interval:
        """Mean with its interval over scenarios."""
        return cluster_bootstrap(values, self.clusters, seed=self.seed)

    def _recorded(self, prompts: list[list[int]]) -> Activations:
        named: dict[str, Any] = {
            site: [(layer, index) for held, layer, index in self.members if held == site] for site in self.model.sites
        }
        lengths = [len(ids) for ids in prompts]
        self._spend(len(plan_batches(lengths, self.batch_tokens)), len(prompts), sum(lengths))
        return record(self.model, prompts, tokens="last", batch_tokens=self.batch_tokens, **named)

    def _measure(self, kind: str, asked: list[Members]) -> None:
        prompts = self.prompts[kind]

        def work(batches: Batches) -> list[Record]:
            given = [([prompts[i] for i in rows], [self._plan(kind, one, rows) for one in asked]) for rows in batches]
            found = last_token_readings(self.model, given, **self.reading)
            return [
                {"row": row, "readings": read[:, at].tolist(), "moves": moved[:, at].tolist(), "first": at == 0}
                for rows, (read, moved) in zip(batches, found, strict=True)
                for at, row in enumerate(rows)
            ]

        name = f"confirm_{self.name}_{kind}_{self._rounds}"
        self._rounds += 1
        records = mapped(self.model, name, [len(ids) + 2 for ids in prompts], self.batch_tokens, work, self.ledger)
        records = sorted(records, key=lambda one: one["row"])
        for at, one in enumerate(asked):
            columns = [np.array([each[word][at] for each in records]) for word in ("readings", "moves")]
            self._known[kind, one] = (columns[0], columns[1])
        passes = sum(each["first"] for each in records) * (
            len(asked) + 3
        )  # with a shared beginning, the rest, and unedited
        self._spend(passes, len(asked) * len(prompts), sum(len(ids) + len(asked) for ids in prompts))

    def _plan(self, kind: str, members: Members, rows: Sequence[int]) -> Plan:
        source = self._values[REMOVAL if kind == PATCH_IN else PATCH_IN]
        plan = Plan()
        for site in self.model.sites:
            chosen = [(layer, index) for held, layer, index in sorted(members) if held == site]
            if not chosen:
                continue
            if kind == REMOVAL and self.zero:
                plan += edits.zero(**{site: chosen}, tokens="last")  # type: ignore[arg-type]
                continue
            at = [source.components[site].index(component) for component in chosen]
            values = source.values[site][list(rows)][:, :, at]
            held = {c: values[:, :, k, 0] if site == "neurons" else values[:, :, k] for k, c in enumerate(chosen)}
            plan += edits.set(held, site, tokens="last")
        return plan

    def _spend(self, passes: int, rows: int, tokens: int) -> None:
        for name, amount in (("passes", passes), ("rows", rows), ("tokens", tokens)):
            self.cost[name] += amount


def named(site: Site) -> str:
    """``head 3.1``, ``neuron 4.17``."""
    kind, layer, index = site
    return f"{kind.removesuffix('s')} {layer}.{index}"


def together(sites: Iterable[Site]) -> Members:
    """A set of components."""
    return frozenset(sites)


def as_record(interval: Interval) -> dict[str, float]:
    """``estimate``, ``low``, ``high``."""
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def sign_of(interval: Interval, threshold: float) -> int | None:
    """1 or -1 for an effect, 0 for none, None where that cannot be said.

    No effect: the whole interval is within the threshold. An effect: its estimate reaches the threshold, and its
    interval excludes zero.
    """
    if -threshold < interval.low and interval.high < threshold:
        return 0
    if interval.estimate >= threshold and interval.low > 0:
        return 1
    return -1 if interval.estimate <= -threshold and interval.high < 0 else None
