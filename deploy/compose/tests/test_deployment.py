"""The whole deployment in containers, for real: `make compose-test`."""

import re
import urllib.request
from pathlib import Path

import pytest

from caravan_client import Caravan, CaravanError, UnauthenticatedError
from caravan_testkit.waiting import wait_until

# The first build compiles llama.cpp.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

each_service = pytest.mark.parametrize("service", ["policy", "telemetry", "engine", "gateway"])
ROOT = Path(__file__).resolve().parents[3]
KITS = {"caravan-obskit", "caravan-protos", "caravan-rpckit", "caravan-servicekit"}

SECOND_ENGINE = ("-f", "docker-compose.yml", "-f", "deploy/compose/second-engine.yml")
METRICS = ("-f", "docker-compose.yml", "-f", "deploy/compose/metrics.yml")

STATUS_OF_THE_SERVICE = """
import pathlib, sys
for process in pathlib.Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_text().split(chr(0))
    if process.name != "1" and sys.argv[1] in words and "-c" not in words:
        print((process / "status").read_text())
"""
PLACES_THAT_CAN_BE_WRITTEN = """
import os, pathlib
for top in set(pathlib.Path("/").iterdir()) - {pathlib.Path(p) for p in ("/proc", "/sys", "/dev")}:
    for folder in [top.parent, top, *top.rglob("*")]:
        if folder.is_dir() and os.access(folder, os.W_OK):
            print(folder)
"""
READABLE_KEYS = """
import os, pathlib
for path in pathlib.Path("/").rglob("*.key"):
    if path.parts[1] not in ("proc", "sys") and os.access(path, os.R_OK):
        print(path)
"""
INSTALLED = """
from importlib.metadata import distributions
packages = "/opt/caravan/lib/python3.11/site-packages"
print(*(one.name.lower() for one in distributions(path=[packages])))
"""
WAY_OUT = "import socket; socket.create_connection(('192.0.2.1', 80), 2)"


def answer(client: Caravan, model: str = "bundled") -> int:
    """Sends a request and returns how many tokens came."""
    return client.generate("Once upon a time", model=model, max_output_tokens=8).usage.output_tokens


def answers_again(client: Caravan) -> int:
    try:
        return answer(client)
    except CaravanError:
        return 0


def test_a_call_through_the_published_port_is_answered(client):
    assert answer(client) == 8


def test_a_call_without_a_valid_key_is_refused(deployment):
    with (
        Caravan(deployment.address, api_key="cvn_0123456789ab_unknown") as stranger,
        pytest.raises(UnauthenticatedError),
    ):
        answer(stranger)


def test_a_model_of_the_mounted_folder_is_served(client):
    assert answer(client, "mounted") == 8


def test_usage_of_a_call_reaches_telemetry(deployment, client):
    answer(client)
    wait_until(
        lambda: deployment.metric("telemetry", 9090, "caravan_usage_records_total") >= 1,
        timeout_s=deployment.recovery_s,
        what="the usage record is stored",
    )


@each_service
def test_a_service_runs_without_any_privilege(deployment, service):
    status = deployment.python(service, STATUS_OF_THE_SERVICE, f"caravan_{service}")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"10001"}
    assert set(fields["Gid"].split()) == {"10001"}
    assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1"


@each_service
def test_a_service_can_write_to_its_data_and_to_tmp_only(deployment, service):
    places = deployment.python(service, PLACES_THAT_CAN_BE_WRITTEN).split()
    places = [each for each in places if not each.startswith(f"/data/{service}/")]
    assert set(places) == {"/data", f"/data/{service}", "/tmp"}  # noqa: S108 (it is looked at)


@each_service
def test_a_service_can_read_no_other_key_than_its_own(deployment, service):
    keys = deployment.python(service, READABLE_KEYS).split()
    own = {f"/data/certs/{service}.key"}
    assert set(keys) == (own | {"/data/admin.key"} if service == "policy" else own)


@each_service
def test_a_service_has_its_own_volumes_only(deployment, service):
    mounts = deployment.container(service)["Mounts"]
    volumes = {mount["Name"] for mount in mounts if mount["Type"] == "volume"}
    wanted = {f"{deployment.project}_{service}-{kind}" for kind in ("data", "certs")}
    assert volumes == wanted
    writable = {mount["Destination"] for mount in mounts if mount["RW"]}
    assert writable == {"/data"}


@each_service
def test_an_image_holds_what_its_service_needs_and_nothing_else(deployment, service):
    lock = (ROOT / "services" / service / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    own = {*KITS, f"caravan-{service}"} | (
        {"caravan-bundled-model"} if service == "engine" else set()
    )
    installed = deployment.python(service, INSTALLED).replace("_", "-").split()
    assert sorted(installed) == sorted(locked | own)


def test_only_the_gateway_is_published_and_only_on_loopback(deployment):
    published = {
        (service, port, binding["HostIp"])
        for service in ("certs", "policy", "telemetry", "engine", "gateway")
        for port, bindings in deployment.container(service)["NetworkSettings"]["Ports"].items()
        for binding in bindings or ()
    }
    assert published == {("gateway", "50051/tcp", "127.0.0.1")}


@pytest.mark.parametrize("service", ["policy", "telemetry", "engine"])
def test_the_services_behind_the_gateway_have_no_way_out(deployment, service):
    with pytest.raises(pytest.fail.Exception, match="Network is unreachable"):
        deployment.python(service, WAY_OUT)


def test_the_engine_plans_with_the_memory_of_its_container(deployment):
    limit = deployment.container("engine")["HostConfig"]["Memory"]
    free = deployment.metric("engine", 9092, "caravan_engine_memory_free_bytes")
    assert 0 < free < limit


def test_certificates_that_are_good_are_left_alone(deployment):
    assert "up to date" in deployment.compose("run", "--rm", "certs")


@each_service
def test_a_killed_service_comes_back_and_calls_are_answered(deployment, client, service):
    starts = deployment.restart_count(service)
    deployment.kill(service, f"caravan_{service}")
    wait_until(
        lambda: deployment.restart_count(service) > starts and deployment.is_healthy(service),
        timeout_s=deployment.recovery_s,
        what=f"{service} is back",
    )
    wait_until(
        lambda: answers_again(client), timeout_s=deployment.recovery_s, what="a call is answered"
    )
    assert client.keys.list()  # asked of policy, never of a cache
    assert all(one.reachable for one in client.status().dependencies)


def test_a_killed_worker_is_replaced_without_its_host(deployment, client):
    starts = deployment.restart_count("engine")
    workers = deployment.metric("engine", 9092, "caravan_engine_worker_starts_total")
    deployment.kill("engine", "caravan_engine.worker")
    wait_until(
        lambda: answers_again(client), timeout_s=deployment.recovery_s, what="a call is answered"
    )
    assert deployment.metric("engine", 9092, "caravan_engine_worker_starts_total") > workers
    assert deployment.restart_count("engine") == starts


def test_a_second_engine_goes_on_while_the_first_is_away(deployment, client):
    deployment.compose(*SECOND_ENGINE, "up", "--detach", "--wait", "engine-2", "gateway")
    deployment.compose("stop", "engine")
    wait_until(
        lambda: answers_again(client), timeout_s=deployment.recovery_s, what="a call is answered"
    )
    deployment.compose("start", "engine")


def test_metrics_are_published_where_that_is_asked_for(deployment):
    deployment.compose(*METRICS, "up", "--detach", "--wait", "--no-deps", "telemetry")
    with urllib.request.urlopen(f"http://{deployment.metrics_address}/metrics") as answer:
        assert b"caravan_usage_records_total" in answer.read()
