import socket

import pytest

from caravan_engine import machine


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A pretended control group: write files into the folder."""
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


def test_without_a_control_group_there_is_memory_and_a_core(cgroup):
    assert machine.available_memory_bytes() > 2**20
    assert machine.num_usable_cores() >= 1


def test_the_memory_limit_of_version_two_counts(cgroup):
    cgroup(memory_dot_max="1048576\n")

    assert machine.available_memory_bytes() == 1048576


def test_the_memory_limit_of_version_one_counts(cgroup):
    cgroup(memory__memory_dot_limit_in_bytes="2097152\n")

    assert machine.available_memory_bytes() == 2097152


@pytest.mark.parametrize("text", ["max\n", "", "9223372036854771712\n"])
def test_no_limit_is_no_limit(cgroup, text):
    unlimited = machine.available_memory_bytes()
    cgroup(memory_dot_max=text)

    assert machine.available_memory_bytes() > unlimited / 2


@pytest.mark.parametrize(
    ("text", "cores"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None)]
)
def test_a_quota_of_processor_time_counts(cgroup, text, cores):
    unlimited = machine.num_usable_cores()
    cgroup(cpu_dot_max=text)

    assert machine.num_usable_cores() == (cores or unlimited)


def test_a_port_that_is_listened_on_is_not_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not machine.port_is_free("127.0.0.1", port)
    assert machine.port_is_free("127.0.0.1", port)
