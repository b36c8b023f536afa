import io

import pytest
from rich.console import Console

from emotrace.runner import progress
from emotrace.runner.progress import LiveReporter, PlainReporter, reporter


def tell(watcher: progress.Reporter) -> None:
    watcher.start(["elicit", "control"])
    watcher.cached("elicit")
    watcher.computing("control", "changed seed")
    watcher.batches("control", "replies", 0, 0)
    watcher.batches("control", "replies", 2, 4)
    watcher.done("control", 1.25)
    watcher.stop()


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80)
    assert isinstance(reporter(console), PlainReporter)
    monkeypatch.setattr(progress, "EVERY_SECONDS", -1.0)
    tell(reporter(console))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "stages: elicit control",
        "elicit: cached",
        "control: computing (changed seed)",
        "control: replies 0/0",
        "control: replies 2/4",
        "control: done in 1.2 s",
    ]


def test_a_live_list_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    watcher = reporter(console)
    assert isinstance(watcher, LiveReporter)
    tell(watcher)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "elicit" in shown
    assert "cached" in shown
    assert "done in 1.2 s" in shown
