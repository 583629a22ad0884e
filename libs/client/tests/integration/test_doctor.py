"""`caravan doctor` against a gateway, and where there is none."""

import json
import socket

import pytest
from typer.testing import CliRunner

from caravan_client.cli.app import app

SECRET = "cvn_abc_VERYSECRET"


@pytest.fixture
def doctor(gateway, api_key, monkeypatch):
    monkeypatch.setenv("CARAVAN_ADDRESS", gateway.address)

    def invoke(*arguments: str):
        result = CliRunner().invoke(app, ["doctor", *arguments, "--json"])
        return result.exit_code, json.loads(result.stdout)

    return invoke


@pytest.fixture
def free_address():
    with socket.socket() as taken:  # bound and not listening: nobody else gets it meanwhile
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def of(document: dict, check: str) -> list[dict]:
    return [one for one in document["findings"] if one["check"] == check]


@pytest.fixture
def services_elsewhere(monkeypatch, free_address):
    """No service of this machine is looked at, whatever runs here."""
    for name in ("GATEWAY", "POLICY", "TELEMETRY", "ENGINE"):
        for field in ("ADDRESS", "OPS_ADDRESS"):
            monkeypatch.setenv(f"CARAVAN_{name}__SERVER__{field}", free_address)


def test_deployment_is_examined_through_the_gateway(doctor, services_elsewhere):
    status, document = doctor("deployment")
    assert status == 1  # the fake gateway's telemetry is away
    assert document["healthy"] is False
    (key,) = of(document, "key")
    assert key["severity"] == "ok"
    assert any("cannot reach telemetry" in one["text"] for one in of(document, "gateway"))
    assert any("alpha" in one["text"] for one in of(document, "models"))
    assert {one["area"] for one in document["findings"]} == {"deployment"}


def test_wrong_key_is_told_without_showing_it(doctor, services_elsewhere):
    status, document = doctor("deployment", "--api-key", SECRET)
    assert status == 1
    (key,) = of(document, "key")
    assert "does not work" in key["text"]
    assert "VERYSECRET" not in json.dumps(document)


def test_nothing_running_is_told_with_what_starts_it(doctor, services_elsewhere, free_address):
    status, document = doctor("deployment", "--address", free_address)
    assert status == 1
    assert "no service runs" in of(document, "services")[0]["text"]
    assert "cannot be reached" in of(document, "gateway")[0]["text"]


def test_gateway_that_never_answers_holds_nobody_up(doctor, services_elsewhere):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        status, document = doctor("deployment", "--address", address)
    assert status == 1
    assert of(document, "gateway")[0]["severity"] == "problem"


def test_machine_alone_can_be_examined(doctor):
    _, document = doctor("machine")
    assert {one["area"] for one in document["findings"]} == {"machine"}


def test_report_for_people_ends_with_a_sum(gateway, api_key, monkeypatch, services_elsewhere):
    monkeypatch.setenv("CARAVAN_ADDRESS", gateway.address)
    result = CliRunner().invoke(app, ["doctor", "deployment"])
    assert result.exit_code == 1
    first, *_, last = result.stdout.splitlines()
    assert first == "Deployment"
    assert last.endswith(("problem", "problems", "warning", "warnings"))
    assert "  -> " in result.stdout


def test_machine_with_only_the_client_skips_what_is_not_there(
    doctor, monkeypatch, tmp_path, gateway
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARAVAN_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(
        "caravan_client.cli.doctor.installation_probe.find_checkout", lambda *_: None
    )
    monkeypatch.setattr("caravan_client.cli.doctor.collect.has_services", lambda _: False)
    _, document = doctor()
    assert set(document["skipped"]) == {"installation", "home"}
    assert of(document, "services") == []
    assert of(document, "key")[0]["severity"] == "ok"


def test_wrong_address_is_wrong_usage(doctor):
    result = CliRunner().invoke(app, ["doctor", "--address", "::nonsense"])
    assert result.exit_code == 2
