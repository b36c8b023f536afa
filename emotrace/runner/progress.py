"""Progress of a run: a live list of stages on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

EVERY_SECONDS = 15.0


class Reporter(Protocol):
    """Told what happens to stages and their batches."""

    def start(self, stages: Sequence[str]) -> None: ...

    def cached(self, stage: str) -> None: ...

    def computing(self, stage: str, reason: str) -> None: ...

    def batches(self, stage: str, name: str, done: int, total: int) -> None: ...

    def server(self, stage: str, text: str, trouble: bool) -> None: ...

    def done(self, stage: str, seconds: float) -> None: ...

    def stop(self) -> None: ...


def reporter(console: Console) -> Reporter:
    """The reporter that fits the console."""
    return LiveReporter(console) if console.is_terminal else PlainReporter(console)


class PlainReporter:
    """One line per event; long pieces of work say how far they are every fifteen seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._said = time.monotonic()

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, stages: Sequence[str]) -> None:
        self._say(f"stages: {' '.join(stages)}")

    def cached(self, stage: str) -> None:
        self._say(f"{stage}: cached")

    def computing(self, stage: str, reason: str) -> None:
        self._say(f"{stage}: computing{f' ({reason})' if reason else ''}")

    def batches(self, stage: str, name: str, done: int, total: int) -> None:
        if time.monotonic() - self._said > EVERY_SECONDS:
            self._say(f"{stage}: {name} {done}/{total}")

    def server(self, stage: str, text: str, trouble: bool) -> None:
        if trouble or time.monotonic() - self._said > EVERY_SECONDS:
            self._say(f"{stage}: {text}")

    def done(self, stage: str, seconds: float) -> None:
        self._say(f"{stage}: done in {seconds:.1f} s")

    def stop(self) -> None:
        """Nothing to close."""


class LiveReporter:
    """A line per stage that turns from waiting to cached, running (with a bar) or done."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[stage]:<12}"),
            TextColumn("{task.description:<44}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def start(self, stages: Sequence[str]) -> None:
        for stage in stages:
            self._tasks[stage] = self._progress.add_task("waiting", start=False, total=1, stage=stage)
        self._progress.start()

    def cached(self, stage: str) -> None:
        self._progress.update(self._tasks[stage], description="cached", total=1, completed=1)

    def computing(self, stage: str, reason: str) -> None:
        self._progress.start_task(self._tasks[stage])
        self._progress.update(self._tasks[stage], description=reason or "running")

    def batches(self, stage: str, name: str, done: int, total: int) -> None:
        text = f"{name} {done}/{total}"
        # never quite full: rich stops the clock of a full bar, and a stage may hold several pieces of work
        self._progress.update(self._tasks[stage], description=text, completed=done, total=max(total, 1) + 1e-9)

    def server(self, stage: str, text: str, trouble: bool) -> None:
        if trouble:
            self._progress.console.print(f"{stage}: {text}", highlight=False, markup=False)
        else:
            self._progress.update(self._tasks[stage], description=text)

    def done(self, stage: str, seconds: float) -> None:
        self._progress.update(self._tasks[stage], description=f"done in {seconds:.1f} s", total=1, completed=1)

    def stop(self) -> None:
        self._progress.stop()
