import pytest

pytest_plugins = ["pytester"]

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
def run(pytester):
    def run(test):
        pytester.makepyfile(test)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider")

    return run


@pytest.mark.parametrize("test", [ADDS_A_HANDLER, SETS_A_PROVIDER], ids=["logging", "tracing"])
def test_a_test_that_leaves_the_process_changed_fails(run, test):
    run(test).assert_outcomes(passed=1, errors=1)


def test_what_pytest_itself_changes_is_none_of_a_tests_business(run):
    run(ASKS_PYTEST).assert_outcomes(passed=1)
