"""What the compose file and the Dockerfile say, checked without Docker."""

import re
from pathlib import Path

import pytest
import yaml

import setup_env
from caravan_engine.config import EngineSettings
from caravan_gateway.config import GatewaySettings
from caravan_policy.config import PolicySettings
from caravan_servicekit.settings_fields import settings_of
from caravan_telemetry.config import TelemetrySettings

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "deploy/compose/Dockerfile").read_text()
TREES = {
    "gateway": GatewaySettings,
    "engine": EngineSettings,
    "policy": PolicySettings,
    "telemetry": TelemetrySettings,
}
COMPOSE_FILES = [ROOT / "docker-compose.yml", *sorted((ROOT / "deploy/compose").glob("*.yml"))]

each_service = pytest.mark.parametrize("service", sorted(TREES))
each_compose_file = pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.name)


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load(COMPOSE_FILES[0].read_text())["services"]


@each_compose_file
def test_every_setting_in_a_compose_file_is_one_of_its_service(path):
    known = {
        f"CARAVAN_{service}__{'__'.join(setting)}".upper()
        for service, tree in TREES.items()
        for setting in settings_of(tree)
    }
    content = yaml.safe_load(path.read_text())["services"].values()
    named = {name for service in content for name in service.get("environment", {})}
    assert named <= known


@each_service
def test_the_health_check_asks_the_port_that_the_service_answers_on(services, service):
    environment = services[service]["environment"]
    default = settings_of(TREES[service])["server", "ops_address"].default
    address = environment.get(f"CARAVAN_{service.upper()}__SERVER__OPS_ADDRESS", str(default))
    assert services[service]["healthcheck"]["test"][-1] == address.rpartition(":")[2]


@each_service
def test_a_service_is_confined_and_comes_back(services, service):
    described = services[service]
    assert described["read_only"] is True
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert described["user"] == "10001:10001"
    assert described["restart"] == "unless-stopped"
    assert described["mem_limit"]


@each_service
def test_a_service_waits_for_its_certificate_and_for_those_it_calls(services, service):
    awaited = {name: how["condition"] for name, how in services[service]["depends_on"].items()}
    called = {"gateway": {"policy", "telemetry", "engine"}, "engine": {"telemetry"}}
    assert awaited == {
        "certs": "service_completed_successfully",
        **dict.fromkeys(called.get(service, ()), "service_healthy"),
    }


def test_only_the_gateway_has_a_published_port(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(published) == ["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in published["gateway"])


@pytest.mark.parametrize("name", ["deploy/compose/Dockerfile", "docker-compose.yml"])
def test_nothing_names_a_registry_or_an_index(name):
    assert not re.search(r"://|index-url|trusted-host", (ROOT / name).read_text())


def test_llama_is_built_with_the_same_options_as_on_this_machine_but_not_for_it():
    options = [option for option in setup_env.CMAKE_ARGS if "GGML_NATIVE" not in option]
    assert [option for option in options if option not in DOCKERFILE] == []
    assert "-DGGML_NATIVE=OFF" in DOCKERFILE
    assert "GGML_NATIVE=ON" not in DOCKERFILE
