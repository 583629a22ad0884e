"""Pytest fixtures that every test can ask for by name (registered as a pytest plugin)."""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from caravan_testkit.clock import FakeClock


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that only the test moves."""
    return FakeClock()


@pytest.fixture
def caravan_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private, empty CARAVAN_HOME; every other `CARAVAN_*` variable is unset."""
    for name in [name for name in os.environ if name.startswith("CARAVAN_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "caravan-home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("CARAVAN_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def process_stays() -> Iterator[None]:
    """Fails a test that leaves logging or tracing of the process changed for later ones."""
    before = _logging_state(), _tracer_provider()
    yield
    if (_logging_state(), _tracer_provider()) != before:
        pytest.fail("the test leaves logging or tracing changed")


def _logging_state() -> tuple[object, ...]:
    root = logging.getLogger()
    # Pytest changes its own ones from phase to phase.
    handlers = [each for each in root.handlers if not type(each).__module__.startswith("_pytest")]
    return handlers, root.level, sys.excepthook, threading.excepthook


def _tracer_provider() -> object:
    trace = sys.modules.get("opentelemetry.trace")  # who hasn't imported it can't have set one
    provider = None if trace is None else trace.get_tracer_provider()
    return None if type(provider).__name__ == "ProxyTracerProvider" else provider


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model, written once per run; tests must not change the file."""
    # Not at the top: every pytest run imports this module, few need numpy and gguf.
    from caravan_testkit.tiny_model import write_tiny_gguf

    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")
