"""More gateways for a stack, and one address in front of several."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caravan_testkit.network import free_port
from caravan_testkit.stack import STOP_S, Stack
from caravan_testkit.waiting import wait_until

_CONNECT_S = 5.0
_CHUNK_BYTES = 65_536


class ExtraGateway:
    """One more gateway process on the services of a stack, with a data directory of its own."""

    def __init__(self, stack: Stack, home: Path) -> None:
        self._stack = stack
        self._home = home
        self._port, self._ops_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "certs").exists():
            (home / "certs").symlink_to(stack.home / "certs")

    @property
    def address(self) -> str:
        """host:port of it."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts it without waiting for it."""
        environment = {
            **self._stack.environment(),
            "CARAVAN_HOME": str(self._home),
            "CARAVAN_GATEWAY__SERVER__ADDRESS": self.address,
            "CARAVAN_GATEWAY__SERVER__OPS_ADDRESS": f"127.0.0.1:{self._ops_port}",
            "CARAVAN_GATEWAY__NAME": self._home.name,
        }
        with (self._home / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "caravan_gateway"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Waits until it takes calls."""
        wait_until(self._is_ready, timeout_s=timeout_s, what=f"gateway {self._home.name}")

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """Sends it a signal and waits for its end; one that isn't there may be killed too."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(sign)
            process.wait(STOP_S)

    def metrics(self) -> str:
        """The text of its `/metrics`."""
        return self._get("/metrics")

    def _is_ready(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            self._get("/health/ready")
            return True
        return False

    def _get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self._ops_port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            body: bytes = answer.read()
            return body.decode()


class Forwarder:
    """One address in front of several: each connection goes to the first that takes it.

    Targets are tried in turn, beginning behind the one that was taken last.
    """

    def __init__(self, targets: list[str]) -> None:
        self._targets = list(targets)
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="forwarder", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """host:port of it."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Ends all connections at once; new ones are taken."""
        for each in tuple(self._sockets):
            _end(each)

    def close(self) -> None:
        """Ends everything."""
        self._is_closed = True
        _end(self._listener)
        self.cut()
        self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        upstream = self._connect()
        if upstream is None:
            client.close()
            return
        self._sockets |= {client, upstream}
        back = threading.Thread(target=_pump, args=(upstream, client), daemon=True)
        back.start()
        _pump(client, upstream)
        back.join()
        self._sockets -= {client, upstream}
        client.close()
        upstream.close()

    def _connect(self) -> socket.socket | None:
        for target in tuple(self._targets):
            host, _, port = target.rpartition(":")
            with contextlib.suppress(OSError):
                upstream = socket.create_connection((host, int(port)), timeout=_CONNECT_S)
                upstream.settimeout(None)
                self._targets.remove(target)
                self._targets.append(target)
                return upstream
        return None


@contextmanager
def extra_gateway(stack: Stack, home: Path) -> Iterator[ExtraGateway]:
    """A ready one, ended afterwards."""
    gateway = ExtraGateway(stack, home)
    try:
        gateway.start()
        gateway.wait_ready()
        yield gateway
    finally:
        gateway.kill(signal.SIGTERM)


@contextmanager
def forwarder_to(*targets: str) -> Iterator[Forwarder]:
    """A forwarder, ended afterwards."""
    forwarder = Forwarder(list(targets))
    try:
        yield forwarder
    finally:
        forwarder.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
    _end(source)
    _end(target)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
