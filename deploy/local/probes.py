"""Looks at a machine from outside: who has a port, whether a service says that it is ready."""

import contextlib
import http.client
import socket
from dataclasses import dataclass

import psutil

LOOPBACK = "127.0.0.1"
PROBE_TIMEOUT_S = 2.0
READY_PATH = "/health/ready"


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a service says about itself; `detail` is empty when it is ready."""

    ready: bool
    detail: str = ""


def ask_readiness(ops_port: int) -> Readiness:
    """Asks the operations port of a service; one that doesn't answer isn't ready."""
    connection = http.client.HTTPConnection(LOOPBACK, ops_port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", READY_PATH)
        response = connection.getresponse()
        body = response.read(500).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return Readiness(ready=False, detail="doesn't answer yet")
    finally:
        connection.close()
    if response.status == http.client.OK:
        return Readiness(ready=True)
    return Readiness(ready=False, detail=body or f"answers {response.status}")


def is_free(port: int) -> bool:
    """Says whether a server could listen on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def pick_free_port() -> int:
    """Returns a port of the loopback interface that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def describe_owner(port: int) -> str:
    """Says which process listens on a port, as far as this user may know."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            here = getattr(connection.laddr, "port", None) == port
            if here and connection.status == psutil.CONN_LISTEN and connection.pid is not None:
                owner = psutil.Process(connection.pid)
                command = " ".join(owner.cmdline())[:100]
                return f"process {owner.pid} ({command}, in {owner.cwd()})"
    return "a process of another user"
