"""Toy protocols: no model, tiny work, everything a real stage does on the ledger."""

import time
from typing import Any

import torch

from emotrace.runner import Run, protocol


@protocol()
def toy_first(run: Run, *, batches: int = 12, pause: float = 0.0, scale: float = 1.0) -> dict[str, Any]:
    """Draw numbers, batch by batch, and add them up."""

    def records(batch: int) -> list[dict[str, Any]]:
        time.sleep(pause)
        return [{"batch": batch, "value": scale * torch.rand(()).item(), "pair": (batch, "ü")}]

    def sums(batch: int) -> dict[str, torch.Tensor]:
        time.sleep(pause)
        return {"x": torch.randn(7, dtype=torch.float64) / (batch + 3), "n": torch.ones(1)}

    kept = run.ledger.map("draws of/one", range(batches), records)
    total = run.ledger.fold("sums", range(batches), sums)
    run.write_records("draws", kept)
    return {"kept": kept, "total": total["x"].tolist(), "n": total["n"].item()}


@protocol(needs=["toy_first"])
def toy_second(run: Run, *, names: tuple[str, ...] = ("a", "b"), pause: float = 0.0) -> dict[str, Any]:
    """Use what the first wrote."""
    values = [record["value"] for record in run.records("toy_first", "draws")]

    def work(name: str) -> list[dict[str, Any]]:
        time.sleep(pause)
        return [{"name": name, "value": sum(values) + torch.rand(()).item()}]

    return {"first": run.summary("toy_first")["n"], "named": run.ledger.map("names", names, work)}


@protocol(needs=["toy_second"])
def toys(run: Run, *, pause: float = 0.0) -> dict[str, Any]:
    """Everything."""
    work = run.ledger.map("rest", [1, 2, 3], lambda i: [time.sleep(pause) or {"i": i}])
    return {"second": run.summary("toy_second"), "rest": work}
