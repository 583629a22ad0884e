"""A gateway on another network, whose way to the workers is cut for a while."""

import contextlib
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import psutil
import pytest
from deployment_numbers import await_account
from network_namespace import OtherNetwork, UnsupportedError
from resuming_clients import Reader
from slow_model import SLOW

from caravan_client import Caravan
from caravan_testkit.network import free_port
from caravan_testkit.stack import running_stack
from caravan_testkit.tiny_model import write_tiny_gguf
from caravan_testkit.waiting import wait_until

SERVERS = ("policy", "engine", "telemetry")


@pytest.fixture(scope="module")
def network():
    network = OtherNetwork()
    try:
        network.open()
    except UnsupportedError as reason:
        pytest.skip(str(reason))
    yield network
    network.close()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory, network):
    """All services here, reachable from the other network."""
    home = tmp_path_factory.mktemp("cut") / "home"
    write_tiny_gguf(home / "models" / "slow.gguf", shape=SLOW)
    ports = {name: free_port() for name in SERVERS}
    settings = {
        "CARAVAN_ENGINE__MODELS__LOAD": "slow",
        "CARAVAN_ENGINE__CONTEXT__CELLS": "8192",
        "CARAVAN_ENGINE__CONTEXT__THREADS": "1",
        "CARAVAN_ENGINE__WORKERS__LISTEN_HOST": network.workers.here,
        "CARAVAN_ENGINE__WORKERS__ADVERTISED_HOST": network.workers.here,
        **{
            f"CARAVAN_{name.upper()}__SERVER__ADDRESS": f"0.0.0.0:{port}"
            for name, port in ports.items()
        },
        **addresses("127.0.0.1", ports),
        "CARAVAN_ENGINE__TELEMETRY__ADDRESS": f"127.0.0.1:{ports['telemetry']}",
        "CARAVAN_POLICY__TELEMETRY__ADDRESS": f"127.0.0.1:{ports['telemetry']}",
    }
    with running_stack(home, settings) as stack:
        stack.service_ports = ports
        yield stack


def addresses(host, ports):
    """Where a gateway finds the others."""
    return {
        "CARAVAN_GATEWAY__POLICY__ADDRESS": f"{host}:{ports['policy']}",
        "CARAVAN_GATEWAY__ENGINE__ADDRESSES": f"{host}:{ports['engine']}",
        "CARAVAN_GATEWAY__TELEMETRY__ADDRESS": f"{host}:{ports['telemetry']}",
    }


class Gateway:
    """A gateway process on the other network."""

    def __init__(self, stack, network, home):
        self.address = f"{network.control.there}:{free_port()}"
        self._ops_address = f"{network.control.there}:{free_port()}"
        self._log = home / "gateway.log"
        home.mkdir()
        (home / "certs").symlink_to(stack.home / "certs")
        environment = {
            **stack.environment(),
            **addresses(network.control.here, stack.service_ports),
            "CARAVAN_HOME": str(home),
            "CARAVAN_GATEWAY__SERVER__ADDRESS": self.address,
            "CARAVAN_GATEWAY__SERVER__OPS_ADDRESS": self._ops_address,
            "CARAVAN_GATEWAY__SERVER__ALLOW_PLAINTEXT": "true",
            "CARAVAN_GATEWAY__FAILOVER__KEEPALIVE_S": "1",
            "CARAVAN_GATEWAY__FAILOVER__KEEPALIVE_TIMEOUT_S": "1",
            "CARAVAN_GATEWAY__FAILOVER__TIMEOUT_S": "120",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                network.inside(sys.executable, "-m", "caravan_gateway"),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self):
        wait_until(self._is_ready, timeout_s=60, what="the gateway on the other network")

    def says(self, words):
        return words in self._log.read_text()

    def close(self):
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def _is_ready(self):
        try:
            with urllib.request.urlopen(f"http://{self._ops_address}/health/ready", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture
def gateway(deployment, network, tmp_path):
    gateway = Gateway(deployment, network, tmp_path / "gateway")
    try:
        gateway.wait_ready()
        yield gateway
    finally:
        network.mend()
        gateway.close()


def test_a_stream_pauses_while_its_worker_cannot_be_reached_and_goes_on_whole(
    deployment, network, gateway
):
    with Caravan(gateway.address, api_key=deployment.admin_key, tls=False) as client:
        reader = Reader(client, "cut", model="slow", max_output_tokens=1500)
        reader.await_tokens(100)
        assert reader.error is None
        network.cut()
        wait_until(lambda: gateway.says("a call lost its worker"), timeout_s=60, what="the loss")
        before = reader.num_tokens
        network.mend()
        answer = reader.end()
    assert before < 1500
    assert len(answer.choices[0].token_ids) == 1500
    status, tokens, is_provisional, failover_count = await_account(
        deployment, "cut", lambda found: found and found[0][2] == 0
    )
    assert (status, tokens, is_provisional) == (0, 1500, 0)
    assert failover_count >= 1
