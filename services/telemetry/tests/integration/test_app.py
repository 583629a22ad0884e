import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from caravan_rpckit.refusals import AddressInUseError, InvalidTlsFilesError
from caravan_servicekit.data_directory import DataDirectoryInUseError
from caravan_telemetry.app import TelemetryApp
from caravan_telemetry.config import ServerSettings, TelemetrySettings
from caravan_telemetry.storage.database import Database
from caravan_telemetry.storage.request_records import SqlRequestStore
from caravan_testkit.waiting import wait_until_async

SERVICE = "caravan.telemetry.v1.IngestService"


async def refuses_to_start(settings, error) -> None:
    app = TelemetryApp(settings)
    with pytest.raises(error):
        await app.start()
    await app.stop()


async def test_a_started_service_is_ready_everywhere(channel_as, scrape):
    assert (await scrape("/health/ready"))[0].startswith("HTTP/1.1 200")
    health = health_pb2_grpc.HealthStub(channel_as("gateway"))
    for name in ("", SERVICE):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_second_instance_on_one_data_directory_is_refused(app, settings):
    await refuses_to_start(settings, DataDirectoryInUseError)


@pytest.mark.parametrize("port", ["rpc", "ops"])
async def test_a_taken_port_is_refused(app, settings, home, port, tmp_path_factory):
    other_home = tmp_path_factory.mktemp("other")
    (other_home / "certs").symlink_to(home / "certs")
    taken = f"127.0.0.1:{app.rpc_port if port == 'rpc' else app.ops_port}"
    addresses = {"address": "127.0.0.1:0", "ops_address": "127.0.0.1:0"}
    addresses["address" if port == "rpc" else "ops_address"] = taken
    other = TelemetrySettings(home=other_home, server=ServerSettings(**addresses))
    await refuses_to_start(other, AddressInUseError)


async def test_a_home_without_certificates_is_refused(caravan_home):
    server = ServerSettings(address="127.0.0.1:0", ops_address="127.0.0.1:0")
    settings = TelemetrySettings(home=caravan_home, server=server)
    await refuses_to_start(settings, InvalidTlsFilesError)


async def test_after_a_stop_the_directory_is_free_again(settings):
    for _ in range(2):
        app = TelemetryApp(settings)
        await app.start()
        await app.drain()
        await app.stop()


@pytest.fixture
def ancient_record(home, make_record) -> None:
    (home / "telemetry").mkdir(mode=0o700)
    database = Database(home / "telemetry" / "telemetry.db")
    SqlRequestStore(database).add([make_record("ancient")], 1)
    database.close()


async def test_old_records_are_removed_while_the_service_runs(ancient_record, scrape):
    async def is_removed() -> bool:
        return "caravan_usage_records_removed_total 1.0" in await scrape()

    await wait_until_async(is_removed, timeout_s=5, what="removal of the old record")
