"""The service as a process of its own: what a crash, a second start and a bad disk do."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from caravan.policy.v1 import authentication_service_pb2 as authentication_pb
from caravan.policy.v1 import authorization_service_pb2 as authorization_pb
from caravan.policy.v1 import policy_admin_service_pb2 as admin_pb
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until

TIMEOUT_S = 30
CANNOT_START = 3
RUN = ("-m", "caravan_policy")

# Dies right after the n-th file was synced.
DYING_RUN = """
import os, signal, sys
done, real = 0, os.fsync
def fsync(fd):
    global done
    real(fd)
    done += 1
    if done == {num_syncs}:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
from caravan_policy.__main__ import main
sys.exit(main())
"""


@dataclass
class Process:
    popen: subprocess.Popen
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until_serving(self) -> int:
        """Returns the port of the gRPC listener."""

        def port():
            assert self.popen.poll() is None, self.log
            return re.search(r'"message": "serving", "port": (\d+)', self.log)

        return int(wait_until(port, timeout_s=TIMEOUT_S, what="policy serves")[1])

    def end(self, number: int) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(TIMEOUT_S)


@pytest.fixture
def launch(home, tmp_path):
    """Starts the service in `home`; further flags go in front of free ports."""
    processes = []

    def launch(*flags, address="127.0.0.1:0", program=RUN, **environment):
        log_path = tmp_path / f"stderr-{len(processes)}"
        with log_path.open("w") as log:
            popen = subprocess.Popen(
                [
                    *(sys.executable, *program, *flags),
                    *("--server.address", address, "--server.ops_address", "127.0.0.1:0"),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "CARAVAN_HOME": str(home), **environment},
            )
        processes.append(Process(popen, log_path))
        return processes[-1]

    yield launch
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.popen.kill()
        process.popen.wait(TIMEOUT_S)


def _credential(home):
    return (home / "admin.key").read_text().strip()


async def _authenticate(connect, port, credential):
    request = authentication_pb.AuthenticateRequest(credential=credential)
    return await connect(port).authentication.Authenticate(request, timeout=TIMEOUT_S)


async def _create_bob(connect, port):
    admin = connect(port).admin
    await admin.CreatePrincipal(admin_pb.CreatePrincipalRequest(name="bob", roles=["user"]))
    return await admin.CreateApiKey(admin_pb.CreateApiKeyRequest(principal="bob"))


async def test_keys_and_version_survive_a_kill(launch, connect, home):
    first = launch()
    port = first.wait_until_serving()
    credential = _credential(home)
    bob = await _create_bob(connect, port)
    first.end(signal.SIGKILL)

    port = launch().wait_until_serving()
    assert _credential(home) == credential
    assert (await _authenticate(connect, port, credential)).policy_version == 3
    assert (await _authenticate(connect, port, bob.secret)).principal.name == "bob"
    question = authorization_pb.CheckPermissionRequest(
        tenant="default", principal="bob", permission="inference", resource="model/m"
    )
    assert (await connect(port).authorization.CheckPermission(question)).allowed


async def test_revocation_that_was_answered_survives_a_kill(launch, connect):
    first = launch()
    port = first.wait_until_serving()
    bob = await _create_bob(connect, port)
    request = admin_pb.RevokeApiKeyRequest(id=bob.api_key.id)
    await connect(port).admin.RevokeApiKey(request)
    first.end(signal.SIGKILL)

    port = launch().wait_until_serving()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _authenticate(connect, port, bob.secret)
    assert error_details(caught.value).reason == "KEY_REVOKED"


def test_termination_ends_the_process_in_order(launch):
    process = launch()
    process.wait_until_serving()
    assert process.end(signal.SIGTERM) == 0
    messages = [json.loads(line)["message"] for line in process.log.splitlines()]
    assert messages[-1] == "draining"


async def test_watching_gateway_does_not_delay_the_end(launch, connect):
    process = launch()
    client = connect(process.wait_until_serving())
    stream = client.authorization.WatchPolicy(authorization_pb.WatchPolicyRequest())
    await stream.read()
    process.popen.terminate()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert error_details(caught.value).reason == "DRAINING"
    assert process.popen.wait(TIMEOUT_S) == 0


def test_second_instance_on_one_data_directory_is_refused(launch):
    first = launch()
    first.wait_until_serving()
    second = launch()
    assert second.popen.wait(TIMEOUT_S) == CANNOT_START
    assert "DATA_DIRECTORY_IN_USE" in second.log
    assert str(first.popen.pid) in second.log
    assert first.popen.poll() is None


def test_taken_port_is_refused(launch, home, tmp_path):
    port = launch().wait_until_serving()
    other = tmp_path / "other"
    other.mkdir()
    (other / "certs").symlink_to(home / "certs")
    second = launch(address=f"127.0.0.1:{port}", CARAVAN_HOME=str(other))
    assert second.popen.wait(TIMEOUT_S) == CANNOT_START
    assert "ADDRESS_IN_USE" in second.log


def test_lost_admin_key_is_not_replaced_silently(launch, home):
    first = launch()
    first.wait_until_serving()
    first.end(signal.SIGTERM)
    (home / "admin.key").unlink()
    second = launch()
    second.wait_until_serving()
    assert not (home / "admin.key").exists()
    assert "the admin key file is missing" in second.log
    assert "--reset-admin-key" in second.log


async def test_reset_writes_a_new_admin_key_and_ends(launch, connect, home):
    first = launch()
    first.wait_until_serving()
    old = _credential(home)
    refused = launch("--reset-admin-key")
    assert refused.popen.wait(TIMEOUT_S) == CANNOT_START
    assert "DATA_DIRECTORY_IN_USE" in refused.log
    assert _credential(home) == old
    first.end(signal.SIGTERM)

    reset = launch("--reset-admin-key")
    assert reset.popen.wait(TIMEOUT_S) == 0
    new = _credential(home)
    assert new != old
    assert new not in reset.log
    port = launch().wait_until_serving()
    assert (await _authenticate(connect, port, new)).principal.name == "admin"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _authenticate(connect, port, old)
    assert error_details(caught.value).reason == "KEY_REVOKED"


def test_damaged_database_is_refused_in_clear_words(launch, home):
    (home / "policy").mkdir()
    (home / "policy" / "policy.db").write_bytes(b"no database " * 1000)
    process = launch()
    assert process.popen.wait(TIMEOUT_S) == CANNOT_START
    assert "is damaged" in process.log
    assert "Traceback" not in process.log
    assert not (home / "admin.key").exists()


def test_database_of_a_newer_version_is_refused_in_clear_words(launch, home):
    first = launch()
    first.wait_until_serving()
    first.end(signal.SIGTERM)
    with contextlib.closing(sqlite3.connect(home / "policy" / "policy.db")) as database:
        database.execute("UPDATE schema_version SET version = 99")
        database.commit()
    second = launch()
    assert second.popen.wait(TIMEOUT_S) == CANNOT_START
    assert "schema version 99" in second.log
    assert "Traceback" not in second.log


def test_place_that_cannot_be_written_is_refused_in_clear_words(launch):
    process = launch(CARAVAN_HOME="/proc/caravan")
    assert process.popen.wait(TIMEOUT_S) == CANNOT_START
    assert "DATA_DIRECTORY_UNWRITABLE" in process.log
    assert "Traceback" not in process.log


def test_admin_key_that_cannot_be_written_leaves_nothing_half_set_up(launch, home):
    (home / "admin.key").mkdir()
    process = launch()
    assert process.popen.wait(TIMEOUT_S) == CANNOT_START
    assert "Cannot write" in process.log
    (home / "admin.key").rmdir()
    launch().wait_until_serving()
    assert _credential(home).startswith("cvn_")


def test_missing_certificates_are_refused_in_clear_words(launch, home):
    (home / "certs").unlink()
    process = launch()
    assert process.popen.wait(TIMEOUT_S) == CANNOT_START
    assert "INVALID_CONFIGURATION" in process.log
    assert "Traceback" not in process.log


def test_database_password_is_in_no_output(launch):
    url = "postgresql+nodriver://caravan:canary-password@localhost/policy"
    process = launch(CARAVAN_POLICY__DATABASE__URL=url)
    assert process.popen.wait(TIMEOUT_S) == CANNOT_START
    assert "canary-password" not in process.log
    assert "database.url" in process.log


# Syncs of the first start: the probe of the data directory, the key file, and its folder.
@pytest.mark.parametrize("num_syncs", [1, 2, 3])
async def test_kill_at_any_sync_of_the_first_start_leaves_a_key_that_works(
    launch, connect, home, num_syncs
):
    dying = launch(program=("-c", DYING_RUN.format(num_syncs=num_syncs)))
    assert dying.popen.wait(TIMEOUT_S) == -signal.SIGKILL
    assert (home / "admin.key").exists() == (num_syncs == 3)
    port = launch().wait_until_serving()
    assert (await _authenticate(connect, port, _credential(home))).principal.name == "admin"
