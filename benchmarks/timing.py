"""Ratios of times measured in turn, and the peak of memory while something runs."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import quantile_test

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Spread:
    """A median with its 95 % interval from order statistics, or the range where there are too few values."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """The median of some values with its interval.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0)
    """
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if len(ordered) > 5:
        found = quantile_test(ordered, q=statistics.median(ordered), p=0.5).confidence_interval(0.95)
        low, high = float(found.low), float(found.high)
    return Spread(statistics.median(ordered), low, high)


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds that calls report of themselves, a round after the other, every second one backwards; none is first for
    good. One round before them is not counted."""
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            took = calls[name]()
            if number:
                seconds[name].append(took)
    return seconds


def ratios(above: list[float], below: list[float]) -> Spread:
    """``above / below``, pair by pair of the same round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def resident() -> int:
    """Bytes of this process in memory."""
    return _status("VmRSS")


def peak_during(call: Callable[[], Any]) -> int:
    """The most bytes in memory at any time while a call runs (Linux; the kernel's own mark, not samples)."""
    RESET.write_text("5")
    call()
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
