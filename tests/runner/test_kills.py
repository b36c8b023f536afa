from pathlib import Path

import pytest

from tests.runner.killing import assert_survives_kills

TOYS = Path(__file__).with_name("toys.py")


@pytest.mark.slow
def test_three_kills_change_nothing_in_toys(tmp_path: Path, sev_file: Path) -> None:
    pauses = ["toy_first.pause=0.02", "toy_second.pause=0.02", "pause=0.02"]
    arguments = ["--data", str(sev_file), *(text for pause in pauses for text in ("-p", pause))]
    assert_survives_kills(TOYS, tmp_path, arguments, moments=3, seed=1)


@pytest.mark.slow
def test_three_kills_change_nothing_in_the_discovery_of_a_circuit(tmp_path: Path) -> None:
    arguments = ["--batch-tokens", "2048", "-p", "elicit.scenarios=6", "-p", "influence.prompts=6"]
    assert_survives_kills("circuit", tmp_path, arguments, moments=3, seed=3)
