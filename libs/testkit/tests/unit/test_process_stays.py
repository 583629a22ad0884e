import subprocess
import sys

import pytest

ADDS_A_HANDLER = """
import logging

def test_adds_a_handler():
    logging.getLogger().addHandler(logging.StreamHandler())
"""
SETS_A_PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

def test_sets_a_provider():
    trace.set_tracer_provider(TracerProvider())
"""
ASKS_PYTEST = """
import logging

def test_asks_pytest(caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger().addHandler(caplog.handler)
    from opentelemetry import trace
    trace.get_tracer("x")
"""


@pytest.fixture
def run(tmp_path):
    """Runs a test in a process of its own and returns the last line that pytest prints."""

    def run(test):
        (tmp_path / "test_it.py").write_text(test)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.stdout.splitlines()[-1]

    return run


@pytest.mark.parametrize("test", [ADDS_A_HANDLER, SETS_A_PROVIDER], ids=["logging", "tracing"])
def test_a_test_that_leaves_the_process_changed_fails(run, test):
    assert run(test).startswith("1 passed, 1 error in ")


def test_what_pytest_itself_changes_is_none_of_a_tests_business(run):
    assert run(ASKS_PYTEST).startswith("1 passed in ")
