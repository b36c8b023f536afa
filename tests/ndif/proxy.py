"""A TCP proxy that counts what passes and breaks connections when told to."""

import select
import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType

CHUNK = 1 << 16


class Proxy:
    """Passes loopback connections on to a server; `sent` and `received` are bytes as the client sees them.

    Faults hold for the given number of connections, counted from the call; `restore()` ends them all.
    """

    def __init__(self, target_host: str, target_port: int, port: int = 0) -> None:
        self.target = (target_host, target_port)
        self.sent = self.received = self.connections = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.restore()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.host, self.port = self._listener.getsockname()
        self.url = f"http://{self.host}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def drop_after(self, *, received_bytes: int, times: int = 1) -> None:
        """Reset a connection once this many bytes of the server's answers have passed on it."""
        with self._lock:
            self._limit, self._drops = received_bytes, times

    def refuse(self, times: int = 1) -> None:
        """Reset connections as soon as they are made."""
        with self._lock:
            self._refusals = times

    def delay(self, seconds: float) -> None:
        """Hold every new connection for so long before it is passed on."""
        self._delay = seconds

    def restore(self) -> None:
        """No faults from now on."""
        with self._lock:
            self._refusals = self._drops = self._limit = 0
            self._delay = 0.0

    def close(self) -> None:
        """Stop listening and end every connection."""
        with self._lock:
            ends = [self._listener, *self._open]
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # a close alone does not wake a thread that waits on it
        self._listener.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            refused = self._refusals > 0
            self._refusals -= refused
        time.sleep(self._delay)
        if refused:
            _reset(client)
            return
        try:
            server = socket.create_connection(self.target)
        except OSError:
            _reset(client)
            return
        with self._lock:
            self._open |= {client, server}
        try:
            with client, server:
                self._pass(client, server)
        except OSError:  # an end was closed under our hands: the other end has been closed with it
            pass
        finally:
            with self._lock:
                self._open -= {client, server}

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        # One thread for both ways: a socket on which another thread waits is not reset when it is closed.
        passed = 0
        other = {client: server, server: client}
        while other:
            for end in select.select(list(other), [], [])[0]:
                data = end.recv(CHUNK)
                if not data:
                    other.pop(end).shutdown(socket.SHUT_WR)
                    continue
                drop = False
                if end is server:
                    data, drop = self._cut(passed, data)
                    passed += len(data)
                other[end].sendall(data)
                with self._lock:
                    self.received += len(data) if end is server else 0
                    self.sent += len(data) if end is client else 0
                if drop:
                    _reset(client)
                    return

    def _cut(self, passed: int, data: bytes) -> tuple[bytes, bool]:
        with self._lock:
            if self._drops == 0 or passed + len(data) < self._limit:
                return data, False
            self._drops -= 1
            return data[: max(self._limit - passed, 0)], True


def _reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
