"""Gateways without models, and the command as a process."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from caravan_client.cli.app import app
from caravan_rpckit.tls import PublicTls

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode doesn't

from fake_answers import KEY, failure
from fake_gateway import FakeGateway
from pseudo_terminal import TAKE_TERMINAL, Terminal


class GatewayThread:
    """Runs a fake gateway beside the test, which may block."""

    def __init__(self, gateway: FakeGateway):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.gateway = gateway

    def start(self) -> None:
        self._thread.start()
        self._run(self.gateway.start())

    def stop(self) -> None:
        self._run(self.gateway.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@pytest.fixture
def reason_failure():
    return failure


@pytest.fixture
def gateway(caravan_home: Path) -> Iterator[FakeGateway]:
    """For tests that block; no key and no address is in the environment."""
    thread = GatewayThread(FakeGateway())
    thread.start()
    yield thread.gateway
    thread.stop()


@pytest.fixture
async def loop_gateway(caravan_home: Path) -> AsyncIterator[FakeGateway]:
    """For tests that run on the event loop."""
    gateway = FakeGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
def tls_gateway(caravan_home: Path) -> Iterator[FakeGateway]:
    """Like `gateway`, with a certificate of the development CA in caravan_home/certs."""
    # Not at the top: few tests need it, and it takes a while.
    from caravan_rpckit.certificates import ensure_certificates

    ensure_certificates(caravan_home)
    certificates = caravan_home / "certs"
    tls = PublicTls(certificates / "gateway.crt", certificates / "gateway.key")
    thread = GatewayThread(FakeGateway(tls))
    thread.start()
    yield thread.gateway
    thread.stop()


@pytest.fixture
def api_key(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key that the gateway takes, in the environment."""
    monkeypatch.setenv("CARAVAN_API_KEY", KEY)
    return KEY


@pytest.fixture
def run(gateway: FakeGateway, api_key: str, monkeypatch: pytest.MonkeyPatch):
    """The command in this process, through typer's runner."""
    monkeypatch.setenv("CARAVAN_ADDRESS", gateway.address)

    def invoke(*arguments: str, stdin: str | bytes = ""):
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return invoke


@pytest.fixture
def start_command(gateway: FakeGateway):
    """Starts the real command as a process; what still runs afterwards is killed."""
    running: list[subprocess.Popen] = []

    def start(
        *arguments: str, launcher=("-m", "caravan_client"), terminal_kind="xterm", **options
    ) -> subprocess.Popen:
        environment = {
            **os.environ,
            "CARAVAN_ADDRESS": gateway.address,
            "CARAVAN_API_KEY": KEY,
            "TERM": terminal_kind,  # wherever the tests run
        }
        command = [sys.executable, *launcher, *arguments]
        settings = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": environment,
            **options,
        }
        process = subprocess.Popen(command, **settings)
        running.append(process)
        return process

    # Processes would inherit that it is ignored, as it is where tests run in the background.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield start
    signal.signal(signal.SIGINT, earlier)
    for process in running:
        process.kill()
        process.wait(10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    terminal.resize(columns=80)
    yield terminal
    terminal.close()


@pytest.fixture
def start_at_terminal(start_command, terminal: Terminal):
    """Starts the command as a person does; `terminal` is what that person has."""

    def start(*arguments: str, **options) -> subprocess.Popen:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.program)
        return start_command(*arguments, **streams, launcher=("-c", TAKE_TERMINAL), **options)

    return start
