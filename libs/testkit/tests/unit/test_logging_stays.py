import pytest

pytest_plugins = ["pytester"]

LEAVES_IT = """
import logging

def test_leaves_it(caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger().addHandler(HANDLER)
"""


@pytest.fixture
def run(pytester):
    def run(handler):
        pytester.makepyfile(LEAVES_IT.replace("HANDLER", handler))
        return pytester.runpytest_subprocess("-p", "no:cacheprovider")

    return run


def test_a_test_that_leaves_a_handler_fails(run):
    run("logging.StreamHandler()").assert_outcomes(passed=1, errors=1)


def test_what_pytest_itself_changes_is_none_of_a_tests_business(run):
    run("caplog.handler").assert_outcomes(passed=1)
