"""A fake server, and no waiting for it."""

import time

import pytest

import emotrace.remote.backend as backend
import emotrace.remote.connection as connection_module
from tests.remote.fake import FakeNdif
from tests.tiny import tiny_model


@pytest.fixture
def server():
    fake = FakeNdif(tiny_model())
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Tries follow each other at once, and no key of this machine's is used."""
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    monkeypatch.setattr(connection_module, "api_key", lambda: "")
    for module in (backend, connection_module):
        monkeypatch.setattr(module, "pause", lambda seconds: time.sleep(min(seconds, 0.01)))
