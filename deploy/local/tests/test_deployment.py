import os
import socket
import stat
import time

import psutil
import pytest

from deployment import DeploymentError
from probes import ask_readiness
from supervision import State, SupervisionError


def eventually(condition, timeout_s=20.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.05)


def start(deployment, model="bundled"):
    deployment.refuse_conflicts()
    deployment.start({**os.environ, "CARAVAN_HOME": str(deployment.home)}, model=model)


def pids(deployment):
    return {state.name: state.pid for state in deployment.supervisor.states()}


def test_all_programs_become_ready_and_each_is_named(deploy, dummy, capsys):
    deployment = deploy(dummy("policy"), dummy("engine"))

    start(deployment, model="/models/tiny.gguf")
    deployment.wait_until_ready()

    output = capsys.readouterr().out
    assert "policy     ready after" in output
    assert "engine     ready after" in output
    assert deployment.model() == "/models/tiny.gguf"


def test_stop_ends_supervisord_and_every_program(deploy, dummy, capsys):
    deployment = deploy(dummy("policy"), dummy("engine"))
    start(deployment)
    deployment.wait_until_ready()
    children = [pid for pid in pids(deployment).values() if pid]

    deployment.stop()

    assert len(children) == 2
    assert not any(psutil.pid_exists(pid) for pid in children)
    assert not deployment.supervisor.is_running()
    assert capsys.readouterr().out.endswith("stopped\n")


def test_stop_without_a_run_says_so(deploy, dummy, capsys):
    deploy(dummy("policy")).stop()

    assert capsys.readouterr().out == "Caravan isn't running\n"


def test_a_killed_program_is_started_again(deploy, dummy):
    deployment = deploy(dummy("engine"))
    start(deployment)
    deployment.wait_until_ready()
    before = pids(deployment)["engine"]

    psutil.Process(before).kill()

    eventually(lambda: pids(deployment)["engine"] not in (None, before))
    deployment.wait_until_ready()


def test_a_program_that_cannot_start_is_named_and_can_be_tried_again(deploy, dummy):
    deployment = deploy(dummy("policy"), dummy("engine", "broken"))
    start(deployment)

    with pytest.raises(DeploymentError, match=r"engine ends as soon as .*(\n.*)*no such setting"):
        deployment.wait_until_ready()

    assert ask_readiness(deployment.programs[0].ops_port).ready
    assert deployment.supervisor.start_stopped() == ["engine"]
    assert deployment.supervisor.states()[1].state is not State.FATAL


def test_a_program_that_never_gets_ready_ends_the_wait(deploy, dummy):
    deployment = deploy(dummy("engine", "loading"))
    start(deployment)

    with pytest.raises(DeploymentError, match="engine isn't ready after 1 s"):
        deployment.wait_until_ready(timeout_s=1)


def test_a_taken_port_is_refused_by_name_of_both_sides(deploy, dummy):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        deployment = deploy(dummy("gateway", ports=(port,)))

        with pytest.raises(DeploymentError) as refusal:
            start(deployment)

    assert f"port {port}, which gateway needs, is taken by process {os.getpid()}" in str(
        refusal.value
    )
    assert not deployment.supervisor.is_running()


def test_what_a_killed_supervisord_leaves_behind_is_refused_then_ended(deploy, dummy, capsys):
    deployment = deploy(dummy("engine"))
    start(deployment)
    deployment.wait_until_ready()
    child = pids(deployment)["engine"]
    psutil.Process(child).parent().kill()
    eventually(lambda: not deployment.supervisor.is_running())

    with pytest.raises(DeploymentError, match=rf"left processes behind \({child}\)"):
        start(deployment)
    deployment.stop()

    assert not psutil.pid_exists(child)
    assert capsys.readouterr().out.endswith("ended 1 processes of an earlier run\n")


def test_a_very_deep_data_directory_with_spaces_works(deploy, dummy, tmp_path):
    home = tmp_path / "a folder" / ("x" * 120) / ("y" * 120)
    deployment = deploy(dummy("engine"), home=home)

    start(deployment)
    deployment.wait_until_ready()

    assert deployment.supervisor.log_of(deployment.programs[0]).exists()


def test_a_percent_sign_in_the_path_is_refused(deploy, dummy, tmp_path):
    deployment = deploy(dummy("engine"), home=tmp_path / "100%")

    with pytest.raises(SupervisionError, match="has a % in it"):
        start(deployment)


def test_only_this_user_can_read_the_password(deploy, dummy):
    deployment = deploy(dummy("engine"))
    start(deployment)

    folder = deployment.home / "supervisor"
    private = [folder / "access.json", folder / "supervisord.conf"]

    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o600, 0o600]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_strangers_supervisord_is_not_taken_for_ours(deploy, dummy, tmp_path):
    ours = deploy(dummy("engine"))
    other = deploy(dummy("engine"), home=tmp_path / "other")
    start(ours)
    access = ours.home / "supervisor" / "access.json"
    stolen = other.home / "supervisor" / "access.json"
    stolen.parent.mkdir(parents=True)
    stolen.write_text(access.read_text().replace('"password": "', '"password": "wrong'))

    assert ours.supervisor.is_running()
    assert not other.supervisor.is_running()
