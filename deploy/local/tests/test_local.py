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
