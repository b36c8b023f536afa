"""Loopback ports: free ones, and whether one is served."""

import random
import socket
from contextlib import ExitStack

# Neither where Linux and Ray's workers take ports of their own, nor where the Ray client's servers do (23000 on).
RANGE = range(24100, 32700)


def free(count: int) -> list[int]:
    """So many different ports on which nothing listens."""
    found: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(RANGE, len(RANGE)):
            end = held.enter_context(socket.socket())
            try:
                end.bind(("", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"fewer than {count} free ports from {RANGE[0]} to {RANGE[-1]}")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, question: bytes) -> bytes:
    """The first bytes of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(question)
        return connection.recv(1000)
