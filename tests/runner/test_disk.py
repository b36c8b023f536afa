import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emotrace.errors import RunError
from emotrace.ledger import MemoryLedger
from emotrace.runner.disk import DiskLedger, computed_batches


class Killed(Exception):
    """Stands for a kill between two batches."""


def records(batch: int) -> list[dict[str, Any]]:
    return [{"batch": batch, "x": torch.rand(()).item()}] * (batch % 3)


def sums(batch: int) -> dict[str, torch.Tensor]:
    return {"a": torch.rand(5, dtype=torch.float64) / 3, "b": torch.full((2,), 0.1 * batch)}


def dying(work: Callable[[int], Any], at: int) -> Callable[[int], Any]:
    def wrapped(batch: int) -> Any:
        if batch == at:
            raise Killed
        return work(batch)

    return wrapped


@pytest.mark.parametrize("at", range(7))
def test_a_map_taken_up_again_equals_an_uninterrupted_one(tmp_path: Path, at: int) -> None:
    whole = DiskLedger(tmp_path / "whole" / "s", "key").map("r", range(7), records)
    drawn_next = torch.rand(3)
    with pytest.raises(Killed):
        DiskLedger(tmp_path / "cut" / "s", "key").map("r", range(7), dying(records, at))
    assert DiskLedger(tmp_path / "cut" / "s", "key").map("r", range(7), records) == whole
    assert torch.rand(3).equal(drawn_next)
    assert [e["batch"] for e in computed_batches(tmp_path / "cut" / "s")] == list(range(7))


@pytest.mark.parametrize("at", range(7))
def test_a_fold_taken_up_again_equals_an_uninterrupted_one(tmp_path: Path, at: int) -> None:
    whole = DiskLedger(tmp_path / "whole" / "s", "key").fold("r", range(7), sums)
    with pytest.raises(Killed):
        DiskLedger(tmp_path / "cut" / "s", "key").fold("r", range(7), dying(sums, at))
    resumed = DiskLedger(tmp_path / "cut" / "s", "key").fold("r", range(7), sums)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert [e["batch"] for e in computed_batches(tmp_path / "cut" / "s")] == list(range(7))


def test_it_agrees_with_the_memory_ledger(tmp_path: Path) -> None:
    def fixed(batch: int) -> list[dict[str, Any]]:
        return [{"i": batch, "half": batch / 2, "text": 'ä"\n'}]

    def parts(batch: int) -> dict[str, torch.Tensor]:
        return {"x": torch.arange(4.0) * batch}

    disk, memory = DiskLedger(tmp_path / "s", "key"), MemoryLedger()
    assert disk.map("r", range(5), fixed) == memory.map("r", range(5), fixed)
    assert torch.equal(disk.fold("t", range(5), parts)["x"], memory.fold("t", range(5), parts)["x"])
    assert disk.map("none", [], fixed) == []
    assert disk.fold("nothing", [], parts) == {}


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_cut_short_is_computed_again(tmp_path: Path, cut: int) -> None:
    whole = DiskLedger(tmp_path / "s", "key").map("r", range(4), records)
    file = tmp_path / "s" / "batches" / "r.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert DiskLedger(tmp_path / "s", "key").map("r", range(4), records) == whole
    assert len(file.read_text().splitlines()) == 5


def test_batches_of_another_key_are_not_used(tmp_path: Path) -> None:
    DiskLedger(tmp_path / "s", "old").map("r", range(3), lambda b: [{"v": "old"}])
    DiskLedger(tmp_path / "s", "old").fold("t", range(3), lambda b: {"v": torch.zeros(1)})
    ledger = DiskLedger(tmp_path / "s", "new")
    assert ledger.map("r", range(3), lambda b: [{"v": "new"}]) == [{"v": "new"}] * 3
    assert ledger.fold("t", range(3), lambda b: {"v": torch.ones(1)})["v"].item() == 3


def test_other_batches_under_the_same_key_are_refused(tmp_path: Path) -> None:
    DiskLedger(tmp_path / "s", "key").map("r", range(3), records)
    DiskLedger(tmp_path / "s", "key").fold("t", range(3), sums)
    with pytest.raises(RunError, match=r"kept for 3 batches, but 'r' now has 4.*--force"):
        DiskLedger(tmp_path / "s", "key").map("r", range(4), records)
    with pytest.raises(RunError, match=r"kept for 3 batches"):
        DiskLedger(tmp_path / "s", "key").fold("t", range(4), sums)


def test_a_name_serves_once(tmp_path: Path) -> None:
    ledger = DiskLedger(tmp_path / "s", "key")
    ledger.map("tune/anger 1.0", range(2), records)
    with pytest.raises(RunError, match=r"'tune/anger 1.0' used twice"):
        ledger.fold("tune/anger 1.0", range(2), sums)


def test_a_part_is_not_changed_through_the_total(tmp_path: Path) -> None:
    part = torch.ones(3)
    total = DiskLedger(tmp_path / "s", "key").fold("t", range(3), lambda b: {"x": part, "same": part})
    assert total["x"].tolist() == [3, 3, 3]
    assert part.tolist() == [1, 1, 1]


def test_progress_and_counters_are_told(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    counted = {"tokens": 0}

    def work(batch: int) -> list[dict[str, Any]]:
        counted["tokens"] += 10 * batch
        return []

    ledger = DiskLedger(tmp_path / "s", "key", watch=lambda *a: seen.append(a), counters=lambda: counted)
    ledger.map("r", [1, 2], work)
    assert seen[-2:] == [("r", 1, 2), ("r", 2, 2)]
    log = [json.loads(line) for line in (tmp_path / "s" / "computed.log").read_text().splitlines()]
    assert [entry["counters"] for entry in log] == [{"tokens": 10}, {"tokens": 20}]
