"""From measured effects to a class for each candidate: the rules of :func:`emotrace.confirm`, for one emotion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from emotrace.formulas.statistics import Interval
from emotrace.steps.backups import GroupTest, search
from emotrace.steps.joint_effects import (
    KINDS,
    PATCH_IN,
    REMOVAL,
    JointEffects,
    Site,
    as_record,
    named,
    sign_of,
    together,
)

UNDECIDED = "undecided"


@dataclass
class Verdicts:
    """Classes of one emotion's candidates.

    Attributes:
        effects: measures.
        threshold: share of the full effect within which an effect counts as none.
        remains: share of a pair's smaller effect that may be left where the two cancel.
        tests: records of joint tests.
    """

    effects: JointEffects
    threshold: float
    remains: float
    tests: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._single: dict[Site, dict[str, Interval]] = {}
        self._class: dict[Site, tuple[str, str]] = {}
        self._partners: dict[Site, set[Site]] = {site: set() for site in self.effects.members}

    def run(self, partners: int, limit: int) -> None:
        """Measure and decide."""
        members = list(self.effects.members)
        if self.effects.full_interval().low <= 0:
            why = "the emotion's prompts do not read higher than neutral ones beyond noise"
            self._class = dict.fromkeys(members, (UNDECIDED, why))
            return
        self.effects.measure(*(together([site]) for site in members), kinds=KINDS)
        self._single = {site: {kind: self.effects.effect(kind, together([site])) for kind in KINDS} for site in members}
        signs = {site: self._sign(site) for site in members}
        acting, against = ([site for site in members if signs[site] == sign] for sign in (1, -1))
        silent = [site for site in members if signs[site] == 0]
        self._class = dict.fromkeys(acting, ("true", "acts alone"))
        for site in members:
            if signs[site] is None:
                self._class[site] = (UNDECIDED, "its effect alone is neither clear nor clearly nothing")
        self._cancel(acting, against, partners)
        self._search(silent, limit)
        for site in against:
            self._class.setdefault(site, (UNDECIDED, "acts against the emotion, and no candidate cancels it"))

    def records(self) -> list[dict[str, Any]]:
        """A record for each candidate."""
        found = []
        for site in self.effects.members:
            word, reason = self._class[site]
            effects = self._single.get(site)
            record: dict[str, Any] = dict(zip(("site", "layer", "index"), site, strict=True))
            record |= {"class": word, "reason": reason}
            record |= {kind: as_record(effects[kind]) if effects else None for kind in KINDS}
            found.append({**record, "partners": tuple(sorted(self._partners[site]))})
        return found

    def _sign(self, site: Site) -> int | None:
        """Of what it does alone: put in, or where that does nothing or is unclear, removed."""
        put_in, removed = (sign_of(self._single[site][kind], self.threshold) for kind in (PATCH_IN, REMOVAL))
        if put_in:
            return put_in
        return removed if removed or put_in == 0 else None

    def _size(self, site: Site) -> float:
        """The larger of its two effects alone."""
        return max((self._single[site][kind].estimate for kind in KINDS), key=abs)

    def _cancel(self, acting: Sequence[Site], against: Sequence[Site], partners: int) -> None:
        """Pairs of opposite sign that cancel; where several would do, those that move the final state least."""
        pairs = [
            (one, other)
            for other in against
            for one in sorted(acting, key=lambda site: abs(self._size(site) + self._size(other)))[:partners]
        ]
        self.effects.measure(*(together(pair) for pair in pairs), kinds=KINDS)
        for pair in pairs:
            for kind in KINDS:
                self._noted(kind, together(pair), (), self.effects.effect(kind, together(pair)))
        done = [pair for pair in pairs if self._nothing(pair)]
        for one, other in sorted(done, key=lambda pair: self.effects.moved(PATCH_IN, together(pair))):
            if not any(self._class.get(site, ("",))[0] == "cancelling" for site in (one, other)):
                self._paired(one, other, "the two together do nothing")

    def _nothing(self, pair: Sequence[Site]) -> bool:
        """Whether two candidates do nothing together, put in or removed."""
        both = together(pair)
        smaller = min(abs(self._size(site)) for site in pair)
        within = max(self.threshold, self.remains * smaller)
        return all(sign_of(self.effects.effect(kind, both), within) == 0 for kind in KINDS)

    def _paired(self, one: Site, other: Site, why: str) -> None:
        for site, partner in ((one, other), (other, one)):
            self._class[site] = ("cancelling", f"with {named(partner)}: {why}")
            self._partners[site].add(partner)

    def _search(self, silent: Sequence[Site], limit: int) -> None:
        """Silent candidates that act once others are gone."""
        members = self.effects.members
        acting = sorted((s for s in members if self._class.get(s, ("",))[0] == "true"), key=lambda s: -self._size(s))
        against = [site for site in members if site not in self._class and site not in silent]
        searches = [search(self.effects, [together([s]) for s in (*acting, *against)], silent, self.threshold, limit)]
        if len(acting) > 1:  # who stands in for several at once, and so shows beside none of them?
            helping = {site for found in searches[0].helpers().values() for site in found}
            rest = [site for site in silent if site not in helping]
            left = max(0, limit - len(searches[0].tests))
            searches.append(search(self.effects, [together(acting)], rest, self.threshold, left))
        for test in (test for found in searches for test in found.tests):
            self._noted(REMOVAL, test.group.members, test.group.gone, test.beyond)
        for site in silent:
            leaves = [test for found in searches for test in found.leaves if test.group.members == (site,)]
            self._judge_silent(site, leaves, set(against))
            if site not in self._class and any(site in found.left for found in searches):
                self._class[site] = (UNDECIDED, "not all its group tests were made: raise tests=")
            self._class.setdefault(site, ("inert", "does nothing alone, nor when any true candidate is gone"))

    def _judge_silent(self, site: Site, leaves: Sequence[GroupTest], against: set[Site]) -> None:
        """A silent candidate that did something beside others."""
        for test in leaves:
            (other, *more) = sorted(test.group.origin)
            if not more and other in against:
                pair = (site, other)
                self.effects.measure(together(pair), kinds=KINDS)
                if test.sign is not None and self._nothing(pair) and other not in self._class:
                    self._paired(site, other, "it answers to it, and the two together do nothing")
                    return
            elif test.sign == 1:
                self._partners[site] |= test.group.origin
        if self._partners[site]:
            who = ", ".join(named(partner) for partner in sorted(self._partners[site]))
            self._class[site] = ("backup", f"acts with {who} gone")
        elif leaves:
            self._class[site] = (UNDECIDED, "beside what is gone, its effect is unclear or against the emotion")

    def _noted(self, kind: str, members: Iterable[Site], beside: Iterable[Site], effect: Interval) -> None:
        sets = {"members": tuple(sorted(members)), "beside": tuple(sorted(beside))}
        self.tests.append({"kind": kind, **sets, "effect": as_record(effect)})
