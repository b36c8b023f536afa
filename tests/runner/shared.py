"""Toy protocols that add up: no model, a record or two for every scenario, and work of the merge's own."""

from pathlib import Path
from typing import Any

from emotrace.data.sev import Scenario
from emotrace.runner import Run, protocol


@protocol(shards=True)
def shared_first(
    run: Run, *, limit: int = 0, scale: float = 1.0, names: tuple[str, ...] = ("a", "b")
) -> dict[str, Any]:
    """Records of every scenario, a name each."""

    def records(scenario: Scenario) -> list[dict[str, Any]]:
        return [{"id": scenario.skeleton_id, "name": n, "size": scale * len(scenario.skeleton_id)} for n in names]

    scenarios = run.share(run.data.train[: limit or None])
    found = run.gathered("sizes", by="id") if run.shards else run.ledger.map("sizes", scenarios, records)
    run.write_records("sizes", found)
    return {"scenarios": len(scenarios), "records": len(found)}


@protocol(needs=["shared_first"], shards=True)
def shared(run: Run, *, switch: str = "") -> dict[str, Any]:
    """Their sum, and after it work that only the whole does, which fails until the file ``switch`` is there."""
    if run.shards:
        total = sum(shard.summary("shared")["total"] for shard in run.shards)
        assert [shard.summary("shared_first")["records"] for shard in run.shards]
    else:
        total = sum(record["size"] for record in run.records("shared_first", "sizes"))
    if run.shard:
        return {"total": total}

    def rest(number: int) -> list[dict[str, Any]]:
        if number == 2 and switch and not Path(switch).exists():
            raise ZeroDivisionError
        return [{"number": number}]

    return {"total": total, "rest": run.ledger.map("rest", range(4), rest)}


@protocol(needs=["shared"])
def shared_after(run: Run) -> dict[str, Any]:
    """What needs the whole."""
    return {"double": 2 * run.summary("shared")["total"]}
