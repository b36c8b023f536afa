"""The pipe to a peer library, with a server that runs in this environment."""

import os
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import shapes
from benchmarks.peers import client, environments
from benchmarks.peers.client import Peer

SERVER = """
import sys
sys.path.insert(0, {folder!r})
print("a library that talks while it is imported")
from serving import Server, serve

class Plain(Server):
    package = "transformers"

    def ablations(self, layer):
        raise KeyError("a fault of the library")

serve(Plain())
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A peer of plain transformers, its model and batch loaded."""
    (tmp_path / "serve_plain.py").write_text(SERVER.format(folder=str(client.FOLDER)))
    monkeypatch.setattr(client, "FOLDER", tmp_path)
    module, ids = shapes.gpt2(shapes.Shape(2, 32, 4, 64)), torch.tensor(shapes.prompts(2, 5))
    save_file({"ids": ids, "mask": torch.ones_like(ids)}, tmp_path / "batch.safetensors")
    shapes.folder_of(module, tmp_path / "model")
    with Peer("plain", python=sys.executable) as running:
        loaded = running.call("load", folder=tmp_path / "model", batch=tmp_path / "batch.safetensors", threads=1)
        assert loaded["versions"]["transformers"]
        yield running, module, ids


@pytest.mark.slow
def test_what_a_peer_computes_comes_back(peer):
    running, module, ids = peer
    reply = running.call("bare")
    with torch.no_grad():
        assert torch.allclose(load_file(reply["file"])["logits"], module(ids).logits[:, -1], atol=1e-5)
    assert 0 < reply["seconds"] < 60
    made = load_file(running.call("generate_plain", new_tokens=3)["file"])["ids"]
    assert torch.equal(made, module.generate(ids, max_new_tokens=3, do_sample=False)[:, 5:])
    assert running.call("capture") == {"unsupported": "transformers reads no activations at these sites"}
    with pytest.raises(RuntimeError, match=r"(?s)failed during 'ablations': KeyError.*a fault of the library"):
        running.call("ablations", layer=0)
    with pytest.raises(RuntimeError, match="'dance' is none of load, bare"):
        running.call("dance")
    assert running.call("bare")["seconds"] > 0
    os.kill(running._process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"(?s)died during 'bare' \(exit code -9\).*talks while it is imported"):
        running.call("bare")


def test_a_peer_is_called_inside_its_block():
    with pytest.raises(RuntimeError, match="call it inside its `with` block"):
        Peer("plain", python=sys.executable).call("bare")


def test_every_peer_is_pinned_and_has_a_server():
    for name, requirements in environments.PEERS.items():
        assert all("==" in requirement for requirement in requirements)
        assert environments.TORCH in requirements
        assert (client.FOLDER / f"serve_{name}.py").is_file()
