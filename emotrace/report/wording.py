"""Numbers as a reader wants them: percentages with intervals, signed gaps, lists, nested settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from emotrace.report.blocks import Facts, Text
from emotrace.report.loading import RunFiles


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] as ``99.4 %``, the space a no-break one."""
    return f"{100 * share:.{digits}f}\u00a0%"


def interval(pair: Sequence[float], digits: int = 1) -> str:
    """A 95 % interval of shares as ``[98.6, 99.8]`` (percent)."""
    return f"[{100 * pair[0]:.{digits}f}, {100 * pair[1]:.{digits}f}]"


def share_with_interval(arm: Mapping[str, Any]) -> str:
    """``99.4 % [98.6, 99.8]`` from ``accuracy`` and ``accuracy_ci``."""
    return f"{percent(arm['accuracy'])} {interval(arm['accuracy_ci'])}"


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def number(value: Any) -> str:
    """Any JSON scalar, floats to 4 significant digits, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    return str(value)


def p_value(value: float) -> str:
    """``p = 0.012``, and ``p < 0.0001`` below that."""
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def listed(names: Sequence[str]) -> str:
    """``anger, fear and disgust``."""
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)


def counted(count: int, noun: str) -> str:
    """``1 head``, ``3 heads``, ``replies`` from ``reply``."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def span(counts: Sequence[int]) -> str:
    """``3`` when all are equal, else ``2–5``."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def absent(run: RunFiles, stage: str, what: str) -> Text:
    """What a stage's summary lacks because an earlier version wrote it, and the command that measures it."""
    return Text(f"This run does not hold {what}; measure it with: {run.command(stage)}", "bad")


def facts(value: Mapping[str, Any]) -> Facts:
    """A JSON object as nested names and values; lists of scalars on one line."""
    items: list[tuple[str, str | Facts]] = []
    for key, part in value.items():
        if isinstance(part, Mapping):
            items.append((str(key), facts(part) if part else "none"))
        elif isinstance(part, Sequence) and not isinstance(part, str):
            flat = all(not isinstance(item, (Mapping, list, tuple)) for item in part)
            nested = {str(index): item for index, item in enumerate(part)}
            items.append((str(key), ", ".join(map(number, part)) or "none" if flat else facts(nested)))
        else:
            items.append((str(key), number(part)))
    return Facts(tuple(items))
