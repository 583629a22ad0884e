"""Loopback ports for tests."""

import random
import socket

# Below the range from which systems take the ports of outgoing connections: one of those could
# have the port by the time that a server binds it.
_RANGE = range(10_000, 32_000)
_TRIES = 100


def free_port() -> int:
    """Returns a TCP port that was free on 127.0.0.1 a moment ago.

    Where a server can bind port 0 and report what it got, prefer that.

    Raises:
        RuntimeError: no free port was found.
    """
    for port in random.SystemRandom().sample(_RANGE, _TRIES):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port among {_TRIES} on 127.0.0.1")
