import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from caravan_client.cli.doctor.bounded import gather, run_program
from caravan_client.cli.doctor.deployment_probe import probe_services, service_addresses
from caravan_client.cli.doctor.listeners import find_owners, program_name, service_of

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_probe_that_hangs_is_left_out():
    release = threading.Event()
    found = gather({"hangs": release.wait, "quick": lambda: True}, limit_s=0.2)
    release.set()
    assert found == {"quick": True}


def test_fault_of_a_probe_is_raised():
    with pytest.raises(ZeroDivisionError):
        gather({"broken": lambda: 1 / 0})


def test_program_is_run_for_a_bounded_time():
    ended = run_program([sys.executable, "-c", "print('a'); raise SystemExit(3)"])
    assert ended is not None
    assert (ended.status, ended.stdout) == (3, "a\n")
    assert run_program([sys.executable, "-c", "import time; time.sleep(60)"], limit_s=0.2) is None
    assert run_program(["/no/such/program"]) is None


@pytest.mark.parametrize(
    ("arguments", "name", "service"),
    [
        (["/v/bin/python3", "-m", "caravan_policy", "--x"], "python3 -m caravan_policy", "policy"),
        (["/v/bin/python3", "-m", "http.server"], "python3 -m http.server", None),
        (["/v/bin/python3", "/a/run.py", "--password=x"], "python3 run.py", None),
        (["python", "-c", "secret code"], "python", None),
        (["/usr/sbin/nginx", "-g", "x"], "nginx", None),
        (["python", "-m"], "python", None),
        ([], "?", None),
    ],
)
def test_program_is_named_without_its_arguments(arguments, name, service):
    assert program_name(arguments) == name
    assert service_of(arguments) == service


@linux_only
def test_owner_of_a_port_is_found_with_its_home(tmp_path):
    code = (
        "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
        "print(server.getsockname()[1], flush=True)\nserver.accept()\n"
    )
    environment = {**os.environ, "CARAVAN_HOME": str(tmp_path), "PASSWORD": "x"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        owners = find_owners({port})
        process.kill()
    assert owners[port].pid == process.pid
    assert owners[port].home == tmp_path
    assert "PASSWORD" not in repr(owners)
    assert find_owners({port}) == {}


def test_addresses_are_found_as_the_services_find_them(tmp_path):
    file = tmp_path / "caravan.toml"
    file.write_text('[policy.server]\naddress = "127.0.0.1:1"\nops_address = "127.0.0.1:2"\n')
    environment = {
        "CARAVAN_CONFIG": str(file),
        "CARAVAN_POLICY__SERVER__ADDRESS": "127.0.0.1:9",
    }
    found = service_addresses(environment)
    assert found["policy"] == ("127.0.0.1:9", "127.0.0.1:2")
    assert found["gateway"] == ("127.0.0.1:50051", "127.0.0.1:9091")
    file.write_text("broken [")
    assert service_addresses(environment)["policy"] == ("127.0.0.1:9", "127.0.0.1:9093")


@pytest.fixture
def ops_port():
    """Answers as an ops port does, by path of the status to give."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"status": "not ready", "not_ready": {"engine": "unreachable"}}')

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_services_are_told_apart_by_what_their_ports_say(ops_port):
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.socket() as closed,
    ):
        closed.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{closed.getsockname()[1]}"
        hanging = f"127.0.0.1:{silent.getsockname()[1]}"
        found = {
            service.name: service
            for service in probe_services(
                {
                    "gateway": (f"127.0.0.1:{ops_port}", f"127.0.0.1:{ops_port}"),
                    "policy": (hanging, hanging),
                    "engine": (free, free),
                    "telemetry": ("nonsense", "nonsense"),
                }
            )
        }
    assert found["gateway"].ready is False
    assert found["gateway"].missing == {"engine": "unreachable"}
    assert (found["policy"].listens, found["policy"].ready) == (True, None)
    assert (found["engine"].listens, found["engine"].ready) == (False, None)
    assert found["telemetry"].listens is False
    assert Path(f"/proc/{os.getpid()}").exists() is (found["policy"].owner is not None)
