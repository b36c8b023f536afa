"""The search for backups on sets whose joint effects are a table: who stands in for whom is known."""

import itertools

import pytest

from emotrace.formulas.statistics import Interval
from emotrace.steps.backups import search
from emotrace.steps.joint_effects import together

PRIMARY = ("heads", 0, 0)
SILENT = [("neurons", 1, n) for n in range(13)]


class Table:
    """Effects of removals from a rule: what is lost when a set is gone."""

    def __init__(self, lost):
        self.lost, self.measured = lost, set()

    def measure(self, *sets, kinds):
        assert kinds == ("removal",)
        self.measured |= set(sets)

    def beyond(self, gone, members):
        assert {gone, gone | members, members} <= self.measured, "read before it was measured"
        value = self.lost(gone | members) - self.lost(gone) - self.lost(members)
        return Interval(value, value - 1e-3, value + 1e-3, "bootstrap")


def helpers(lost, silent=SILENT, limit=1000):
    table = Table(lost)
    found = search(table, [together([PRIMARY])], silent, 0.05, limit)
    assert all(test.sign == 1 for test in found.leaves)
    return found.helpers().get(together([PRIMARY]), set()), found


@pytest.mark.parametrize("at", range(13))
def test_one_backup_is_found_in_few_tests(at):
    backup = SILENT[at]
    names, found = helpers(lambda gone: float({PRIMARY, backup} <= gone))
    assert names == {backup}
    assert len(found.tests) <= 1 + 2 * 4 + 1, "two halves a level, and the rest once more"
    assert not found.left


def test_nothing_to_find_costs_one_test():
    names, found = helpers(lambda gone: float(PRIMARY in gone))
    assert names == set()
    assert len(found.tests) == 1


@pytest.mark.parametrize("pair", [(0, 1), (0, 12), (5, 7)])
def test_backups_that_stand_in_for_each_other_are_both_found(pair):
    both = {SILENT[n] for n in pair}
    names, found = helpers(lambda gone: float({PRIMARY, *both} <= gone))
    assert names == both
    assert len(found.tests) < 30


@pytest.mark.parametrize("pair", list(itertools.combinations((0, 4, 9, 12), 2)))
def test_a_backup_of_a_backup_that_makes_up_for_half_is_found(pair):
    first, second = (SILENT[n] for n in pair)

    def lost(gone):
        if PRIMARY not in gone:
            return 0.0
        return 0.5 if first not in gone or second not in gone else 1.0

    assert helpers(lost)[0] == {first, second}


def test_either_one_or_two_together():
    """A component stands in, or two that need each other do."""
    alone, one, other = SILENT[2], SILENT[6], SILENT[11]

    def lost(gone):
        return float(PRIMARY in gone and alone in gone and (one in gone or other in gone))

    assert helpers(lost)[0] == {alone, one, other}


def test_many_effects_within_the_threshold_are_no_backup():
    names, found = helpers(lambda gone: 0.02 * len(gone & set(SILENT)) if PRIMARY in gone else 0.0)
    assert names == set()
    assert len(found.tests) == 15, "halved until halves are within the threshold"


@pytest.mark.parametrize(("chains", "all_of_them"), [((1, 3, 8, 10), True), ((1, 3, 4, 10), False)])
def test_two_chains_that_stand_in_for_each_other(chains, all_of_them):
    """Two components that need each other stand in, or two others that do; one link of each is always found."""
    a, b, c, d = (SILENT[n] for n in chains)

    def lost(gone):
        return float(PRIMARY in gone and bool(gone & {a, b}) and bool(gone & {c, d}))

    names, _ = helpers(lost)
    assert names <= {a, b, c, d}
    assert lost(names | {PRIMARY}) == 1.0
    assert (names == {a, b, c, d}) == all_of_them


def test_three_backups_of_which_each_is_enough():
    three = {SILENT[n] for n in (0, 1, 12)}
    names, found = helpers(lambda gone: float({PRIMARY, *three} <= gone))
    assert names == three
    assert len(found.tests) < 60


def test_the_limit_holds_and_says_what_was_left():
    backup = SILENT[3]
    for limit in range(8):
        _, found = helpers(lambda gone: float({PRIMARY, backup} <= gone), limit=limit)
        assert len(found.tests) <= limit
        assert (backup in found.left) or any(backup in test.group.members for test in found.leaves)
