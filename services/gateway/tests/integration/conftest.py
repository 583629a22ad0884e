import shutil
import sys
from pathlib import Path

import pytest

from caravan_gateway.app import GatewayApp
from caravan_gateway.config import (
    EngineSettings,
    FailoverSettings,
    GatewaySettings,
    PolicySettings,
    ServerSettings,
    TelemetrySettings,
)
from caravan_rpckit.certificates import ensure_certificates

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode doesn't

from fake_engine import FakeEngine
from fake_policy import FakePolicy
from fake_telemetry import FakeTelemetry
from fake_worker import FakeWorker
from gateway_client import ADMIN_KEY, KEY, Client, until
from worker_fleet import Fleet


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    home = tmp_path_factory.mktemp("certificates")
    ensure_certificates(home)
    return home / "certs"


@pytest.fixture
def home(tmp_path, certificates):
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(certificates, home / "certs")
    return home


@pytest.fixture
async def policy(home):
    policy = FakePolicy(home)
    policy.add_key(KEY)
    policy.add_key(
        ADMIN_KEY,
        principal="admin",
        permissions={"inference", "health", "models", "policy", "metrics"},
        priority_cap=100,
    )
    await policy.start()
    yield policy
    await policy.stop()


@pytest.fixture
async def worker(home):
    worker = FakeWorker(home)
    await worker.start()
    yield worker
    await worker.stop()


@pytest.fixture
async def engine(home, worker):
    engine = FakeEngine(home)
    engine.set_model("tiny", aliases=("bundled",))
    engine.set_endpoint("worker-1", worker.address)
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def telemetry(home):
    telemetry = FakeTelemetry(home)
    await telemetry.start()
    yield telemetry
    await telemetry.stop()


@pytest.fixture
def settings(home, policy, engine, telemetry):
    """Settings of a gateway between the fakes; `server`, `policy` ... take changes."""

    def make(**changes):
        sections = {
            "server": ServerSettings(
                address="127.0.0.1:0",
                ops_address="127.0.0.1:0",
                drain_timeout_s=2,
                **changes.pop("server", {}),
            ),
            "policy": PolicySettings(address=policy.address, **changes.pop("policy", {})),
            "engine": EngineSettings(
                **{"addresses": (engine.address,), **changes.pop("engine", {})}
            ),
            "failover": FailoverSettings(**changes.pop("failover", {})),
            "telemetry": TelemetrySettings(
                address=telemetry.address, **changes.pop("telemetry", {})
            ),
        }
        return GatewaySettings(home=home, name="gateway-under-test", **sections, **changes)

    return make


@pytest.fixture
async def start_gateway(settings):
    """Starts gateways and stops what is left of them."""
    running = []

    async def start(*, wait=True, **changes):
        app = GatewayApp(settings(**changes))
        running.append(app)
        await app.start()
        if wait:
            await until(lambda: app.is_ready, "readiness")
        return app

    yield start
    for app in running:
        await app.stop()


@pytest.fixture
async def gateway(start_gateway):
    return await start_gateway()


@pytest.fixture
async def client_of():
    """Makes clients and closes them."""
    clients = []

    def make(app, key=KEY):
        clients.append(Client(app.port, key))
        return clients[-1]

    yield make
    for client in clients:
        await client.channel.close()


@pytest.fixture
async def client(gateway, client_of):
    return client_of(gateway)


@pytest.fixture
async def admin(gateway, client_of):
    return client_of(gateway, ADMIN_KEY)


@pytest.fixture
async def fleet(home, engine):
    made = []

    async def make_worker():
        made.append(FakeWorker(home))
        made[-1].pause_s = 0.01
        await made[-1].start()
        return made[-1]

    engine.endpoints.clear()
    fleet = Fleet(engine, make_worker)
    await fleet.add("w1")
    yield fleet
    for wire in fleet.wires.values():
        await wire.cut()
    for worker in made:
        await worker.stop()
