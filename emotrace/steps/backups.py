"""Which silent components act once others are gone: group tests, halved where something shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from emotrace.formulas.statistics import Interval
from emotrace.steps.joint_effects import REMOVAL, JointEffects, Members, Site, sign_of, together


@dataclass(frozen=True)
class Group:
    """Components to be removed together while others are gone.

    Attributes:
        origin: the components whose backups are searched.
        gone: who is gone: ``origin``, and silent components that may stand in for the group.
        members: the group.
    """

    origin: Members
    gone: Members
    members: tuple[Site, ...]

    def halves(self) -> list[Group]:
        """The group in two."""
        middle = len(self.members) // 2
        return [Group(self.origin, self.gone, part) for part in (self.members[:middle], self.members[middle:])]

    def without(self, others: Sequence[Site]) -> Group:
        """The group with more components gone."""
        return Group(self.origin, self.gone | together(others), self.members)


@dataclass(frozen=True)
class GroupTest:
    """What a group takes away beyond what it takes away alone, in shares of the full effect, and its sign."""

    group: Group
    beyond: Interval
    sign: int | None


@dataclass
class Search:
    """What a search found.

    Attributes:
        tests: all group tests.
        leaves: those of single components that did not come out as nothing.
        left: components whose groups were not all tested, because the limit was reached.
    """

    tests: list[GroupTest] = field(default_factory=list)
    leaves: list[GroupTest] = field(default_factory=list)
    left: set[Site] = field(default_factory=set)

    def helpers(self) -> dict[Members, set[Site]]:
        """Components that stand in for others, by whom for."""
        found: dict[Members, set[Site]] = {}
        for test in self.leaves:
            if test.sign == 1:
                found.setdefault(test.group.origin, set()).update(test.group.members)
        return found


def search(
    effects: JointEffects, origins: Sequence[Members], silent: Sequence[Site], threshold: float, limit: int
) -> Search:
    """Test all silent components as one group beside each origin, and halve groups that act.

    A group acts when removing it with the origin takes away more than either does alone, added up. Where a group acts
    and neither of its halves does, the halves may stand in for each other: each is then halved with the other one gone,
    too. Unless the halves' effects add up to the group's: then it holds nothing but effects within the threshold. Where
    components were found, the rest is tested once more with those gone: a backup may have one of its own. Of chains of
    components that stand in for each other, one link of each is found for certain.

    Args:
        effects: measures.
        origins: sets that are removed.
        silent: components without an effect of their own, in the order in which they are halved.
        threshold: of effects.
        limit: group tests, at most.
    """
    found = Search()
    asked = [Group(origin, origin, tuple(silent)) for origin in origins]
    known: dict[Members, int] = {}
    while asked:
        _halve(effects, [group for group in asked if group.members], threshold, limit, found)
        asked = []
        for origin, helping in found.helpers().items():
            if len(helping) > known.get(origin, 0):
                rest = tuple(site for site in silent if site not in helping)
                asked.append(Group(origin, origin | together(helping), rest))
                known[origin] = len(helping)
    return found


def _halve(effects: JointEffects, asked: list[Group], threshold: float, limit: int, found: Search) -> None:
    """Test groups, level by level, until none that acts is left whole."""
    parents: list[tuple[GroupTest, list[Group]]] = []
    while asked:
        room = max(0, limit - len(found.tests))
        found.left |= {site for group in asked[room:] for site in group.members}
        results = _tested(effects, asked[:room], threshold)
        found.tests += results.values()
        asked, opened = [], []
        for group, test in results.items():
            if test.sign != 0 and len(group.members) == 1:
                found.leaves.append(test)
            elif test.sign != 0:
                asked += group.halves()
                opened.append((test, group.halves()))
        for test, (one, other) in parents:
            done = [results[half] for half in (one, other) if half in results]
            if test.sign is None or len(done) < 2 or any(half.sign != 0 for half in done):
                continue
            if abs(test.beyond.estimate - sum(half.beyond.estimate for half in done)) >= threshold:
                asked += [one.without(other.members), other.without(one.members)]
        parents = opened


def _tested(effects: JointEffects, groups: Sequence[Group], threshold: float) -> dict[Group, GroupTest]:
    removed = [(group, together(group.members)) for group in groups]
    effects.measure(*(s for group, own in removed for s in (group.gone, group.gone | own, own)), kinds=(REMOVAL,))
    results = {}
    for group, own in removed:
        beyond = effects.beyond(group.gone, own)
        results[group] = GroupTest(group, beyond, sign_of(beyond, threshold))
    return results
