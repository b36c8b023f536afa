from pathlib import Path
from typing import Any

import pytest

from emotrace.errors import RunError
from emotrace.runner import Inputs, load_protocol, run_protocol
from emotrace.runner.shards import as_shard, dealt, put_back, shard_name

TOYS, SHARED = (Path(__file__).with_name(name) for name in ("toys.py", "shared.py"))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
def test_shares_are_disjoint_nearly_equal_and_go_back_in_order(count: int) -> None:
    for total in range(count, 40):
        shares = [dealt(range(total), (index, count)) for index in range(1, count + 1)]
        assert {len(share) for share in shares} <= {total // count, total // count + 1}
        assert sorted(item for share in shares for item in share) == list(range(total))
        assert put_back(shares) == list(range(total))
    assert dealt("abc", None) == ["a", "b", "c"]


def test_more_shards_than_scenarios_are_refused() -> None:
    with pytest.raises(RunError, match="shard 4/5 is empty: there are 3 scenarios; cut them into 3 shards at most"):
        dealt("abc", (4, 5))


@pytest.mark.parametrize("shares", [["a", "bc"], ["abc", "a"], ["", "a"]])
def test_what_was_not_dealt_so_does_not_go_back(shares: list[str]) -> None:
    with pytest.raises(RunError, match="are not equal shares of a whole"):
        put_back(shares)


def test_a_shard_is_read_from_text_and_written_as_it() -> None:
    assert as_shard("3/16") == (3, 16)
    assert as_shard(" 1/1 ") == (1, 1)
    assert shard_name((3, 16)) == "3/16"


@pytest.mark.parametrize("text", ["0/4", "5/4", "x", "3", "3/", "/4", "-1/4", "1.5/4", "1/2/3", "0/0", ""])
def test_text_that_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(RunError, match=f"shard '{text}': write I/N with I from 1 to N, as in 3/16"):
        as_shard(text)


@pytest.mark.parametrize("value", [(0, 4), (5, 4), (1,), "3/16", (1.0, 2), 3])
def test_inputs_take_a_pair_of_whole_numbers(value: Any) -> None:
    with pytest.raises(RunError, match="write I/N"):
        Inputs(shard=value)


def test_only_a_shard_s_key_holds_its_shard(sev_file: Path) -> None:
    whole, part = Inputs(data_source=sev_file).parts, Inputs(data_source=sev_file, shard=(2, 3)).parts
    assert part == whole | {"shard": "2/3"}
    assert "shard" not in whole


def test_what_needs_all_scenarios_is_not_run_on_a_shard(tmp_path: Path, sev_file: Path) -> None:
    part = Inputs(data_source=sev_file, shard=(1, 2))
    with pytest.raises(RunError, match=r"stage 'toy_first' needs all scenarios.*Run 'toys' without a shard"):
        run_protocol(TOYS, tmp_path / "run", part)
    load_protocol(SHARED)
    with pytest.raises(
        RunError,
        match=r"'shared_after' needs all scenarios, not a shard of them\. Run 'shared' on every shard, merge these, "
        r"then run 'shared_after' on the merged folder",
    ):
        run_protocol("shared_after", tmp_path / "run", part)
    with pytest.raises(RunError, match=r"stage 'components' needs all scenarios.*Run 'directions' on every shard"):
        run_protocol("paper", tmp_path / "run", part)
    assert not (tmp_path / "run").exists()


def test_a_change_of_the_shard_is_named(tmp_path: Path, sev_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    for shard in ((1, 2), (2, 2), None):
        run_protocol(SHARED, tmp_path / "run", Inputs(data_source=sev_file, shard=shard), console=Console())
    assert capsys.readouterr().out.count("shared_first: computing (changed shard)") == 2
