"""How results are kept: JSON for programs, Markdown for people, both with the machine they were measured on."""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.timing import Spread

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "nnsight", "transformers")


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    described = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        described["processor"] = models[0] if models else described["processor"]
    return described | {name: metadata.version(name) for name in PACKAGES}


def keep(name: str, title: str, tables: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], doc: str | None) -> str:
    """Write ``results/NAME.json`` and ``results/NAME.md``; the Markdown is returned.

    Args:
        name: of the files.
        title: heading.
        tables: captions with rows; the first row's keys are the columns.
        doc: of the module that measured: what the numbers mean, after a first line.
    """
    made = {"measured": time.strftime("%Y-%m-%d"), "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    content = made | {caption: list(rows) for caption, rows in tables}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, default=asdict) + "\n")
    notes = (doc or "").partition("\n\n")[2].strip()
    lines = [f"# {title}", "", notes, "", " · ".join(f"{k} {v}" for k, v in made["machine"].items()), ""]  # type: ignore[attr-defined]
    for caption, rows in tables:
        columns = list(rows[0])
        lines += [f"**{caption}**", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(shown(row[column]) for column in columns) + " |" for row in rows]
        lines.append("")
    text = "\n".join(lines)
    (RESULTS / f"{name}.md").write_text(text)
    return text


def shown(value: Any) -> str:
    """Numbers with thousands separated, or to three digits; a spread as its median and interval.

    >>> shown(1234.5), shown(Spread(2.0, 1.5, 2.25))
    ('1,234', '2 (1.5 to 2.25)')
    """
    if isinstance(value, Spread):
        return f"{shown(value.median)} ({shown(value.low)} to {shown(value.high)})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
