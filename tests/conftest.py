import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

protocol_module = importlib.import_module("emotrace.runner.protocol")  # the package has a function of that name


@pytest.fixture
def sev_file(tmp_path: Path) -> Path:
    """A file of twenty scenarios in SEV format."""
    path = tmp_path / "twenty.jsonl"
    events = {"positive": "It went well.", "neutral": "Nothing came of it.", "negative": "It went wrong."}
    rows = [
        {"theme": "work", "scenario": f"Task {i} was due.", "event": events, "skeleton_id": f"task-{i}"}
        for i in range(20)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    """Protocols defined by a test are gone after it."""
    before = dict(protocol_module._registry)
    yield
    for name, spec in list(protocol_module._registry.items()):
        if name not in before and spec.source.parent != protocol_module.shipped_folder():
            del protocol_module._registry[name]
