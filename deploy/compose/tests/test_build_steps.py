import asyncio

import pytest
from prometheus_client import CollectorRegistry

import lock_entries
import probe
import share_certificates
from caravan_obskit.ops_server import OpsServer
from caravan_obskit.readiness import Readiness
from caravan_rpckit.certificates import SERVICES, ensure_certificates
from caravan_testkit.network import free_port

FIRST = """# Written by a tool.
alpha==1.0 \\
    --hash=sha256:11 \\
    --hash=sha256:12
beta==2.0 ; python_version < '3.12' \\
    --hash=sha256:21
gamma==3.0 \\
    --hash=sha256:31
"""
SECOND = FIRST.replace("--hash=sha256:12", "--hash=sha256:13")


def test_entries_that_all_locks_share_keep_their_markers_and_hashes():
    assert lock_entries.common([FIRST, SECOND]) == (
        "beta==2.0 ; python_version < '3.12' \\\n    --hash=sha256:21\n"
        "gamma==3.0 \\\n    --hash=sha256:31\n"
    )


def test_one_package_is_taken_with_all_of_its_hashes():
    assert lock_entries.one("alpha", FIRST) == (
        "alpha==1.0 \\\n    --hash=sha256:11 \\\n    --hash=sha256:12\n"
    )


def test_a_package_that_a_lock_lacks_ends_the_build():
    with pytest.raises(LookupError, match="alp"):
        lock_entries.one("alp", FIRST)


async def test_only_a_ready_service_passes_the_probe(capsys):
    readiness = Readiness(("serving",))
    ops = OpsServer(0, registry=CollectorRegistry(), readiness=readiness)
    await ops.start()
    assert await asyncio.to_thread(probe.main, ops.port) == 1
    readiness.met("serving")
    assert await asyncio.to_thread(probe.main, ops.port) == 0
    await ops.stop()
    assert '"not ready"' in capsys.readouterr().out


def test_a_port_without_a_listener_fails_the_probe():
    assert probe.main(free_port()) == 1


def test_each_service_is_given_its_own_key_and_no_other(tmp_path):
    ensure_certificates(tmp_path / "home")
    for service in SERVICES:
        folder = tmp_path / service
        folder.mkdir()
        share_certificates.share(tmp_path / "home" / "certs", service, folder)
        names = {path.name for path in folder.iterdir()}
        assert names == {"ca.crt", f"{service}.crt", f"{service}.key"}
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_sharing_again_writes_only_what_changed(tmp_path):
    made, folder = tmp_path / "home" / "certs", tmp_path / "policy"
    ensure_certificates(tmp_path / "home")
    folder.mkdir()
    share_certificates.share(made, "policy", folder)
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    (folder / "policy.crt").write_text("torn")
    share_certificates.share(made, "policy", folder)
    after = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"policy.crt"}
    assert (folder / "policy.crt").read_bytes() == (made / "policy.crt").read_bytes()
