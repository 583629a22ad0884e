"""The four services as real processes on free ports, for tests that cross all of them.

Owns starting, killing, restarting and ending the processes; what they answer is the tests'
business. Every process is known by its id and ended when the stack is closed.
"""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from caravan_testkit.network import free_port
from caravan_testkit.waiting import wait_until

SERVICES = ("policy", "telemetry", "engine", "gateway")
START_S = 60.0
STOP_S = 30.0


class Stack:
    """A deployment of its own: home, ports, processes. Not thread-safe."""

    def __init__(self, home: Path, settings: Mapping[str, str]) -> None:
        self.home = home
        self._grpc = {name: free_port() for name in SERVICES}
        self._ops = {name: free_port() for name in SERVICES}
        self._settings = dict(settings)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (home / "logs").mkdir(parents=True, exist_ok=True)

    @property
    def address(self) -> str:
        """host:port of the gateway."""
        return f"127.0.0.1:{self._grpc['gateway']}"

    @property
    def admin_key(self) -> str:
        """The key that the first start wrote."""
        return (self.home / "admin.key").read_text().strip()

    def grpc_address(self, service: str) -> str:
        """host:port of a service's gRPC listener."""
        return f"127.0.0.1:{self._grpc[service]}"

    def ops_address(self, service: str) -> str:
        """host:port of a service's operations port."""
        return f"127.0.0.1:{self._ops[service]}"

    def environment(self) -> dict[str, str]:
        """What every process of this deployment inherits."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CARAVAN_")}
        addresses = {
            f"CARAVAN_{name.upper()}__SERVER__{field}": f"127.0.0.1:{port}"
            for field, ports in (("ADDRESS", self._grpc), ("OPS_ADDRESS", self._ops))
            for name, port in ports.items()
        }
        peers = {
            "CARAVAN_GATEWAY__POLICY__ADDRESS": self.grpc_address("policy"),
            "CARAVAN_GATEWAY__ENGINE__ADDRESSES": self.grpc_address("engine"),
            "CARAVAN_GATEWAY__TELEMETRY__ADDRESS": self.grpc_address("telemetry"),
            "CARAVAN_ENGINE__TELEMETRY__ADDRESS": self.grpc_address("telemetry"),
            "CARAVAN_POLICY__TELEMETRY__ADDRESS": self.grpc_address("telemetry"),
            "CARAVAN_ENGINE__WORKERS__PORT_BASE": "0",
        }
        return {
            **inherited,
            **addresses,
            **peers,
            **self._settings,
            "CARAVAN_HOME": str(self.home),
            "PYTHONUNBUFFERED": "1",
        }

    def make_certificates(self) -> None:
        """Makes the development certificates."""
        command = [sys.executable, "-m", "caravan_rpckit.certificates", "--home", str(self.home)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def start(self, service: str) -> None:
        """Starts a service without waiting for it."""
        with self.log_path(service).open("ab") as log:
            self._processes[service] = subprocess.Popen(
                [sys.executable, "-m", f"caravan_{service}"],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_all(self) -> None:
        """Starts all services and waits until each is ready."""
        for service in SERVICES:
            self.start(service)
        for service in SERVICES:
            self.wait_ready(service)

    def wait_ready(self, service: str, timeout_s: float = START_S) -> None:
        """Waits until a service says that it is ready.

        Raises:
            TimeoutError: it doesn't in time; the text ends with the end of its log.
        """
        try:
            wait_until(lambda: self._is_ready(service), timeout_s=timeout_s, what=service)
        except TimeoutError as error:
            tail = self.log_path(service).read_text(errors="replace")[-3000:]
            raise TimeoutError(f"{error}\n{tail}") from None

    def process(self, service: str) -> psutil.Process:
        """The process of a service."""
        return psutil.Process(self._processes[service].pid)

    def workers(self) -> list[psutil.Process]:
        """The engine's worker processes."""
        children = self.process("engine").children(recursive=True)
        return [c for c in children if "caravan_engine.worker" in " ".join(_command(c))]

    def kill(
        self, service: str, sign: signal.Signals = signal.SIGKILL, *, wait_s: float = STOP_S
    ) -> None:
        """Sends a signal to a service and waits for its end."""
        process = self._processes.pop(service)
        process.send_signal(sign)
        process.wait(wait_s)

    def restart(self, service: str) -> None:
        """Kills a service with SIGKILL, starts it again, and waits until it is ready."""
        self.kill(service)
        self.start(service)
        self.wait_ready(service)

    def metrics(self, service: str) -> str:
        """The text of a service's `/metrics`."""
        return self._get(service, "/metrics").decode()

    def log_path(self, service: str) -> Path:
        """Where the output of a service goes."""
        return self.home / "logs" / f"{service}.log"

    def close(self) -> None:
        """Ends all processes, gently first."""
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S)
        self._processes.clear()

    def _is_ready(self, service: str) -> bool:
        status = self._processes[service].poll()
        if status is not None:
            tail = self.log_path(service).read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{service} ended with status {status}\n{tail}")
        try:
            self._get(service, "/health/ready")
        except (urllib.error.URLError, OSError):
            return False
        return True

    def _get(self, service: str, path: str) -> bytes:
        url = f"http://127.0.0.1:{self._ops[service]}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            body: bytes = answer.read()
            return body


@contextmanager
def running_stack(home: Path, settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """A ready deployment in `home`, ended afterwards."""
    stack = Stack(home, settings or {})
    stack.make_certificates()
    try:
        stack.start_all()
        yield stack
    finally:
        stack.close()


def _command(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return command
