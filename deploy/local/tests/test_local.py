import sys

import pytest

import local
from deployment import Deployment, DeploymentError


def test_without_a_model_the_bundled_one_is_meant():
    assert local.wanted_model({}) == "bundled"
    assert local.model_name("bundled") == "bundled"


def test_a_model_file_is_known_by_its_stem(tmp_path):
    path = tmp_path / "tiny-chat.Q8_0.gguf"
    path.touch()

    model = local.wanted_model({"CARAVAN_MODEL": str(path)})

    assert model == str(path)
    assert local.model_name(model) == "tiny-chat.Q8_0"


def test_a_missing_model_file_is_refused(tmp_path):
    with pytest.raises(DeploymentError, match="there is no model file"):
        local.wanted_model({"CARAVAN_MODEL": str(tmp_path / "absent.gguf")})


def test_services_inherit_the_data_directory_but_no_clients_key(tmp_path):
    inherited = local.service_environment(
        {"PATH": "/bin", "CARAVAN_API_KEY": "secret"}, tmp_path, "/models/a.gguf"
    )

    assert inherited == {
        "PATH": "/bin",
        "CARAVAN_HOME": str(tmp_path),
        "CARAVAN_MODEL": "/models/a.gguf",
    }


def test_hints_name_the_model_and_the_key(tmp_path, capsys):
    local.print_hints(Deployment(tmp_path, tmp_path, ()), "/models/tiny.gguf")

    output = capsys.readouterr().out
    assert '"model":"tiny"' in output
    assert f"$(cat '{tmp_path}/admin.key')" in output


def test_an_unknown_command_is_refused(capsys):
    assert local.main(["explode"]) == 2
    assert "Usage" in capsys.readouterr().err


@pytest.fixture
def machine(tmp_path, monkeypatch, dummy, deploy):
    """A machine with two dummy services and a client that repeats its arguments."""
    programs = (dummy("policy"), dummy("engine"))
    client = tmp_path / "caravan"
    client.write_text('#!/bin/sh\necho asked "$@"\n')
    client.chmod(0o755)
    monkeypatch.setattr(local, "PROGRAMS", programs)
    monkeypatch.setattr(local, "PYTHON", sys.executable)
    monkeypatch.setattr(local, "CARAVAN", str(client))
    monkeypatch.setenv("CARAVAN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CARAVAN_MODEL", raising=False)
    deploy(*programs, home=tmp_path / "home")
    return client


def test_up_waits_asks_and_says_what_to_try_then_finds_everything_running(machine, capfd):
    assert local.main(["up"]) == 0
    first = capfd.readouterr().out
    assert local.main(["up"]) == 0
    second = capfd.readouterr().out

    order = ["policy     ready", "asked chat -m bundled What is Caravan?", "Try next"]
    places = [first.index(words) for words in order]
    assert places == sorted(places)
    assert "everything runs already" in second
    assert "asked" not in second


def test_another_model_than_the_running_one_is_refused(machine, tmp_path, monkeypatch, capfd):
    assert local.main(["up"]) == 0
    model = tmp_path / "other.gguf"
    model.touch()
    monkeypatch.setenv("CARAVAN_MODEL", str(model))

    assert local.main(["up"]) == 1

    assert "Caravan runs already, with bundled. `make restart`" in capfd.readouterr().err


def test_a_first_chat_that_fails_is_a_failure_of_up(machine, capfd):
    machine.write_text("#!/bin/sh\nexit 7\n")

    assert local.main(["up"]) == 7

    assert "the first chat failed" in capfd.readouterr().err


def test_status_tells_a_running_deployment_from_a_stopped_one(machine, capfd):
    assert local.main(["status"]) == 1
    assert local.main(["up"]) == 0
    assert local.main(["status"]) == 0
    assert local.main(["down"]) == 0
    assert local.main(["status"]) == 1

    output = capfd.readouterr().out
    assert output.count("Caravan isn't running: `make run`") == 2
    assert output.count("engine     ") == 2


def test_logs_show_one_service_or_all(machine, capfd):
    assert local.main(["up"]) == 0
    capfd.readouterr()

    assert local.main(["logs"]) == 0
    assert "engine.log" in capfd.readouterr().out
    assert local.main(["logs", "nobody"]) == 1
