"""What all commands have in common: options, failures, help, and how they exit."""

import json
import subprocess
import sys

import pytest
from json_lines import lines

from caravan_rpckit.errors import FieldViolation


@pytest.mark.parametrize("arguments", [("--json", "models", "list"), ("models", "--json", "list")])
def test_global_options_may_stand_before_the_subcommand(run, arguments):
    (document,) = lines(run(*arguments).stdout)
    assert [model["name"] for model in document["models"]] == ["alpha", "beta", "gamma"]


def test_option_after_the_subcommand_wins(run, gateway):
    result = run("--address", "127.0.0.1:1", "models", "list", "--address", gateway.address)
    assert result.exit_code == 0


def test_failed_call_is_one_line_with_reason_and_advice(run, gateway, reason_failure):
    gateway.failures.append(
        reason_failure("MODEL_NOT_LOADED", "m sleeps.", metadata={"model": "m"})
    )
    result = run("chat", "Hi")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "caravan: MODEL_NOT_LOADED: m sleeps; `caravan models load m` loads it\n"
    )


def test_every_faulty_field_is_told_once(run, gateway, reason_failure):
    violations = [FieldViolation("seed", "is odd"), FieldViolation("stop[0]", "is empty")]
    gateway.failures.append(
        reason_failure("INVALID_FIELD", "seed: is odd (and 1 more)", field_violations=violations)
    )
    result = run("chat", "Hi")
    assert result.stderr == "caravan: INVALID_FIELD: seed: is odd; stop[0]: is empty\n"


def test_failed_call_is_json_on_stderr(run, gateway, reason_failure):
    gateway.failures.append(reason_failure("QUEUE_FULL", "Full.", retry_after_s=60))
    result = run("chat", "Hi", "--json")
    assert result.exit_code == 1
    (document,) = lines(result.stderr)
    assert document["error"]["reason"] == "QUEUE_FULL"
    assert document["error"]["retry_after_s"] == 60
    assert document["error"]["request_id"]


def test_failure_within_a_stream_keeps_what_was_printed(run, gateway, reason_failure):
    gateway.fail_after = reason_failure("WORKER_DIED", "The worker died.")
    result = run("chat", "Hi")
    assert (result.exit_code, result.stdout) == (1, "Once upon a time\n")
    assert result.stderr.startswith("caravan: WORKER_DIED: The worker died; try again in ")


def test_missing_key_tells_where_was_looked(run, monkeypatch, tmp_path):
    monkeypatch.delenv("CARAVAN_API_KEY")
    monkeypatch.delenv("CARAVAN_HOME")
    monkeypatch.chdir(tmp_path)
    result = run("status")
    assert result.exit_code == 2
    assert "CARAVAN_API_KEY" in result.stderr
    assert str(tmp_path / ".caravan" / "admin.key") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_key_is_taken_from_the_home(run, monkeypatch, caravan_home, api_key):
    monkeypatch.delenv("CARAVAN_API_KEY")
    (caravan_home / "admin.key").write_text(f"{api_key}\n")
    assert run("status").exit_code == 0


def test_key_option_goes_before_the_environment(run):
    result = run("status", "--api-key", "other-key-5")
    assert result.exit_code == 1
    assert "INVALID_CREDENTIAL" in result.stderr
    assert "other-key-5" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("chat", "--top-k", "many", "Hi"),
        ("chat", "--logit-bias", "x", "Hi"),
        ("chat", "--label", "x", "Hi"),
        ("keys", "create"),
        ("keys", "create", "alice", "--expires", "soon"),
        ("status", "--plaintext", "--ca", "ca.crt"),
        ("status", "--timeout", "0"),
        ("generate", "-"),
        ("generate", "Once", "--dry-base", "2"),
        ("generate", "Once", "--xtc-threshold", "0.2"),
        ("detokenize", "x"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    as_json = run(*arguments, "--json")
    assert as_json.exit_code == 2
    assert "message" in json.loads(as_json.stderr)["error"]


def test_stdin_that_is_no_text_is_wrong_usage(run):
    result = run("chat", stdin=b"\xff\xfe")
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_argument_that_is_no_text_is_refused_without_a_traceback(run):
    result = run("chat", "half a \udcc3")
    assert result.exit_code == 1
    assert result.stderr.startswith("caravan: INVALID_FIELD: ")


@pytest.mark.parametrize("group", [(), ("models",), ("keys",)])
def test_group_without_a_subcommand_shows_help(run, group):
    result = run(*group)
    assert result.exit_code == 2
    assert "Commands" in result.stdout


def test_version_is_that_of_the_distribution(run):
    assert run("--version").stdout.strip() == "0.1.0"


def test_help_loads_neither_grpc_nor_protos():
    code = (
        "import sys\n"
        "from caravan_client.cli.app import app\n"
        "try: app(['chat', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m in ('grpc', 'google.protobuf', 'tenacity')))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.splitlines()[-1] == "[]"
