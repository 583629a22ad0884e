"""A running policy service in this process, and channels to it with real certificates."""

from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from caravan.policy.v1.authentication_service_pb2_grpc import AuthenticationServiceStub
from caravan.policy.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from caravan.policy.v1.policy_admin_service_pb2_grpc import PolicyAdminServiceStub
from caravan_policy.app import PolicyApp
from caravan_policy.config import (
    PolicySettings,
    ServerSettings,
    TelemetrySettings,
    WatchSettings,
)
from caravan_rpckit.certificates import ensure_certificates
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity


@dataclass
class Client:
    authentication: AuthenticationServiceStub
    authorization: AuthorizationServiceStub
    admin: PolicyAdminServiceStub
    channel: grpc.aio.Channel


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    """A home with nothing but certificates, made once."""
    home = tmp_path_factory.mktemp("certificates")
    ensure_certificates(home)
    return home / "certs"


@pytest.fixture
def home(caravan_home, certificates) -> Path:
    (caravan_home / "certs").symlink_to(certificates)
    return caravan_home


@pytest.fixture
def settings(home) -> PolicySettings:
    return PolicySettings(
        home=home,
        server=ServerSettings(
            address="127.0.0.1:0", ops_address="127.0.0.1:0", drain_timeout_s=5.0
        ),
        watch=WatchSettings(watcher_limit=3, buffer_limit=100),
        telemetry=TelemetrySettings(address=None),
    )


@pytest.fixture
async def application(settings):
    application = PolicyApp(settings)
    try:
        await application.start()
        yield application
        await application.drain()
    finally:
        await application.stop()


@pytest.fixture
async def connect(home):
    """Connects to a port with the certificate of a service."""
    channels = []

    def connect(port, service="gateway"):
        tls = TlsIdentity.in_home(home, service)
        channel = open_channel(f"127.0.0.1:{port}", tls=tls, server_name="policy")
        channels.append(channel)
        return Client(
            AuthenticationServiceStub(channel),
            AuthorizationServiceStub(channel),
            PolicyAdminServiceStub(channel),
            channel,
        )

    yield connect
    for channel in channels:
        await channel.close()


@pytest.fixture
def gateway(application, connect):
    return connect(application.port)


@pytest.fixture
def admin_credential(application, home):
    return (home / "admin.key").read_text().strip()
