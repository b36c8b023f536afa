"""``manifest.json``: what a run was made from, with what, on what, and at what cost. No secrets, no environment."""

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from emotrace.data.concepts import PAPER_SIX
from emotrace.data.sev import SHIPPED
from emotrace.errors import RunError
from emotrace.runner.cache import StageCache, read_json
from emotrace.runner.protocol import ProtocolSpec, shipped
from emotrace.runner.run import Inputs, fingerprint
from emotrace.runner.shards import shard_name

MANIFEST = "manifest.json"
PACKAGES = ("emotrace", "torch", "nnsight", "transformers", "numpy", "safetensors", "scikit-learn", "statsmodels")


def versions() -> dict[str, str]:
    """Version of Python and of each package that results depend on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def machine() -> dict[str, Any]:
    """Processor, threads and accelerators."""
    cuda = torch.cuda.is_available()
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    }


def manifest(folder: Path, inputs: Inputs, asked: ProtocolSpec, stages: Sequence[str]) -> dict[str, Any]:
    """The manifest of a run folder whose ``stages`` have been computed or found.

    Tokens and bytes are sums over stages of what the model counted. The fingerprint of a model that was not loaded,
    because every stage was cached, is the one the earlier manifest holds.
    """
    earlier = read_json(folder / MANIFEST)
    same = earlier.get("model", {}).get("key") == inputs.parts["model"]
    known = earlier.get("model", {}).get("fingerprint") if same else None
    records = {name: StageCache(folder / "stages" / name).read() for name in stages}
    counted: dict[str, float] = {}
    for record in records.values():
        for key, value in record.get("counters", {}).items():
            counted[key] = counted.get(key, 0) + value
    return {
        "asked": asked.name,
        "inputs": recorded(inputs, asked),
        "versions": versions(),
        "machine": machine(),
        "model": {
            "name": inputs.model_id,
            "key": inputs.parts["model"],
            "fingerprint": fingerprint(inputs.model) if inputs.loaded else known,
        },
        "data": {
            "name": inputs.data.name,
            "sha256": inputs.data.sha256,
            "scenarios": {
                "train": len(inputs.data.train),
                "validation": len(inputs.data.validation),
                "test": len(inputs.data.test),
            },
        },
        "concepts": {"name": inputs.concepts.name, "labels": list(inputs.concepts.labels)},
        "judge": inputs.parts["judge"],
        "seed": inputs.seed,
        "batch_tokens": inputs.batch_tokens,
        "stages": {
            name: {
                "key": record["key"],
                "parameters": record["parts"]["parameters"],
                "seconds": record["seconds"],
                "computed": record["computed"],
                "counters": record["counters"],
                **({"merged": record["merged"]} if "merged" in record else {}),
            }
            for name, record in records.items()
        },
        "seconds": round(sum(record["seconds"] for record in records.values()), 3),
        "counters": counted,
    }


def recorded(inputs: Inputs, asked: ProtocolSpec) -> dict[str, Any]:
    """Where inputs and protocol came from, for :func:`restored`; null for what is in memory only."""
    named = isinstance(inputs.source, str | Path)
    data = str(inputs.data_source)
    usual = inputs.custom_judge is None and inputs.concepts is PAPER_SIX
    return {
        "protocol": asked.name if asked.name in shipped() else str(asked.source),
        "model": str(inputs.source) if named and usual else None,
        "data": data if data in SHIPPED else str(Path(data).resolve()),
        "dtype": inputs.dtype,
        "remote": inputs.ndif.url if inputs.ndif else False,
        "shard": None if inputs.shard is None else shard_name(inputs.shard),
    }


def restored(made: Mapping[str, Any]) -> Inputs:
    """The inputs of the run whose manifest is ``made``, all scenarios of them.

    Raises:
        RunError: its model, judge or emotions were given as Python objects.
    """
    known = made["inputs"]
    if known["model"] is None:
        raise RunError("the model, the judge or the emotions were given in Python: give the same as inputs= there")
    return Inputs(
        known["model"],
        known["data"],
        seed=made["seed"],
        batch_tokens=made["batch_tokens"],
        dtype=known["dtype"],
        remote=known["remote"],
    )
