"""Protocols, run folders, the stage cache and manifests."""

from emotrace.runner.execute import RunResult, run_protocol
from emotrace.runner.merge import merge_shards
from emotrace.runner.protocol import ProtocolSpec, load_protocol, protocol, shipped
from emotrace.runner.run import Inputs, Run

__all__ = [
    "Inputs",
    "ProtocolSpec",
    "Run",
    "RunResult",
    "load_protocol",
    "merge_shards",
    "protocol",
    "run_protocol",
    "shipped",
]
