"""What a shell is offered."""

import os
import socket
import subprocess
import sys

import pytest

# A shell's user isn't kept waiting; a busy machine may take longer than that to start Python.
PATIENT = """
import runpy
from caravan_client.cli import completion
completion.LIMIT_S = 30
runpy.run_module("caravan_client", run_name="__main__")
"""


@pytest.fixture
def complete(gateway, api_key):
    def ask(line: str, *, program=("-c", PATIENT), **variables: str) -> list[str]:
        words = line.split(" ")
        environment = {
            **os.environ,
            "CARAVAN_ADDRESS": gateway.address,
            "_CARAVAN_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            **variables,
        }
        done = subprocess.run(
            [sys.executable, *program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_commands_and_options_are_completed(complete):
    assert complete("caravan do") == ["doctor"]
    assert "--temperature" in complete("caravan chat --tem")
    assert complete("caravan completion z") == ["zsh"]


def test_models_are_completed_by_name_and_alias(complete):
    assert complete("caravan chat -m ") == ["alpha", "beta", "bundled", "gamma"]
    assert complete("caravan generate --model b") == ["beta", "bundled"]
    assert complete("caravan models load g") == ["gamma"]


def test_names_that_a_shell_would_run_are_not_offered(complete, gateway):
    gateway.models["$(reboot)"] = 3
    gateway.models["a;b"] = 3
    gateway.models["a-1.5:q8"] = 3
    assert complete("caravan models unload a") == ["a-1.5:q8", "alpha"]
    assert complete("caravan models unload $") == []


def test_keys_that_work_are_completed_for_revoking(complete, gateway):
    from caravan.policy.v1 import principal_pb2 as principal_pb

    for key_id, state in (("k1", "ACTIVE"), ("k2", "REVOKED"), ("x3", "ACTIVE")):
        key = principal_pb.ApiKey(id=key_id, state=f"API_KEY_STATE_{state}")
        gateway.keys[key_id] = key
    assert complete("caravan keys revoke k") == ["k1"]


def test_address_on_the_line_is_asked(complete, gateway):
    line = f"caravan --address {gateway.address} chat -m al"
    assert complete(line, CARAVAN_ADDRESS="127.0.0.1:1") == ["alpha"]
    after = f"caravan chat --address {gateway.address} -m al"
    assert complete(after, CARAVAN_ADDRESS="127.0.0.1:1") == ["alpha"]


def test_failures_are_silent(complete, tmp_path):
    assert complete("caravan chat -m a", CARAVAN_ADDRESS="127.0.0.1:1") == []
    assert complete("caravan chat -m a", CARAVAN_API_KEY="wrong") == []
    assert complete("caravan chat -m a", CARAVAN_API_KEY="", CARAVAN_HOME=str(tmp_path)) == []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        program = ("-m", "caravan_client")
        assert complete("caravan chat -m a", program=program, CARAVAN_ADDRESS=address) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_for_a_shell_calls_this_command(shell):
    done = subprocess.run(
        [sys.executable, "-m", "caravan_client", "completion", shell],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert f"_CARAVAN_COMPLETE=complete_{shell}" in done.stdout
