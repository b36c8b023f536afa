from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from tests.ndif.install import install
from tests.ndif.rig import Rig

# What runs in the server's environment cannot be imported in ours.
collect_ignore = ["shim"]

MODEL = "emotrace/bundled"
WEIGHTS = Path(str(files("emotrace") / "models" / "bundled" / "weights"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ndif)


@pytest.fixture(scope="session")
def rig_home() -> Path:
    return install()


@pytest.fixture(scope="session")
def rig(rig_home: Path) -> Iterator[Rig]:
    """A server with the bundled model as emotrace/bundled, for the tests that leave it running and whole."""
    with Rig(rig_home, {MODEL: WEIGHTS}, gated=["emotrace/gated"]) as rig:
        yield rig
