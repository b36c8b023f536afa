import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from tests.ndif.install import install
from tests.ndif.rig import Rig

# What runs in the server's environment cannot be imported in ours.
collect_ignore = ["shim"]

MODEL = "emotrace/bundled"
FAMILIES = ("gpt2", "gemma2")  # biases and transposed weights; norms behind
WEIGHTS = Path(str(files("emotrace") / "models" / "bundled" / "weights"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ndif)


@pytest.fixture(scope="session")
def rig_home() -> Path:
    return install()


@pytest.fixture(scope="session")
def rig(rig_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A server for the tests that leave it running and whole.

    It has the bundled model as emotrace/bundled, tiny random ones as tiny/FAMILY, and tiny/huge, which does not fit.
    """
    import torch
    from transformers import LlamaConfig

    from tests.tiny import tiny_hf, tiny_tokenizer

    models = {MODEL: WEIGHTS}
    for family in FAMILIES:
        models[f"tiny/{family}"] = folder = tmp_path_factory.mktemp(family)
        tiny_hf(family, dtype=torch.float32).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    models["tiny/huge"] = folder = tmp_path_factory.mktemp("huge")
    LlamaConfig(num_hidden_layers=80, hidden_size=8192, intermediate_size=28672).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    header = json.dumps({"w": {"dtype": "F32", "shape": [70_000, 1_000_000], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)  # all that the Hub reads
    with Rig(rig_home, models, gated=["emotrace/gated"]) as rig:
        yield rig
