"""Loopback ports for tests."""

import socket


def free_port() -> int:
    """Returns a TCP port that was free on 127.0.0.1 a moment ago.

    Another process may take it first: where a server can bind port 0 and report what it got,
    prefer that.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
