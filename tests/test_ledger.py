import pytest
import torch

from emotrace.ledger import MemoryLedger, added


def test_records_come_in_batch_order() -> None:
    assert MemoryLedger().map("r", [3, 1, 2], lambda b: [{"b": b}] * b) == [{"b": b} for b in (3, 3, 3, 1, 2, 2)]


def test_sums_are_added_by_name() -> None:
    total = MemoryLedger().fold("s", [1, 2, 3], lambda b: {"x": torch.tensor([1.0, b]), "n": torch.tensor(b)})
    assert total["x"].tolist() == [3, 6]
    assert total["n"].item() == 6
    assert MemoryLedger().fold("s", [], lambda b: {}) == {}


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sums differ in names: \['x'\] against \['y'\]"):
        added({"x": torch.ones(1)}, {"y": torch.ones(1)})
