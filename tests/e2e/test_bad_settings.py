"""Services that cannot start as they are set up: each says everything that is wrong, and why."""

import os
import shutil
import subprocess
import sys

import pytest

from caravan_testkit.stack import SERVICES

SETTINGS, CANNOT_START = 2, 3

# A wrong type, a value out of range, one of the wrong form, one of no known word, an unknown name.
FAULTS = {
    "gateway": {
        "server.max_calls": "many",
        "server.drain_timeout_s": "-1",
        "server.address": "nowhere",
        "log.level": "loud",
        "server.colour": "blue",
    },
    "engine": {
        "context.cells": "3.5",
        "context.seats": "257",
        "server.address": "127.0.0.1:99999",
        "context.key_type": "f8",
        "server.colour": "blue",
    },
    "policy": {
        "server.drain_timeout_s": "soon",
        "watch.watcher_limit": "0",
        "server.ops_address": "nowhere",
        "log.level": "loud",
        "server.colour": "blue",
    },
    "telemetry": {
        "server.drain_timeout_s": "nan",
        "server.address": ":::",
        "server.ops_address": "127.0.0.1:-1",
        "log.level": "loud",
        "server.colour": "blue",
    },
}


def start(service, home, arguments=(), **variables):
    """Starts a service that has to end by itself."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CARAVAN_")}
    free = {
        f"CARAVAN_{service.upper()}__SERVER__{field}": "127.0.0.1:0"
        for field in ("ADDRESS", "OPS_ADDRESS")
    }
    return subprocess.run(
        [sys.executable, "-m", f"caravan_{service}", *arguments],
        env={**inherited, **free, "CARAVAN_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def variable(service, setting):
    return f"CARAVAN_{service.upper()}__{setting.upper().replace('.', '__')}"


@pytest.mark.parametrize("service", SERVICES)
def test_all_faults_of_the_settings_are_told_at_once(service, tmp_path):
    faults = {variable(service, setting): value for setting, value in FAULTS[service].items()}

    result = start(service, tmp_path / "home", **faults)

    assert result.returncode == SETTINGS
    lines = result.stderr.splitlines()
    assert len(lines) == len(faults)
    for setting, value in FAULTS[service].items():
        [line] = [line for line in lines if line.startswith(f"{service}: {setting}: ")]
        assert variable(service, setting) in line
        assert "allowed: " in line
        assert value in line or "unknown setting" in line
    assert not (tmp_path / "home").exists()


def test_faults_of_file_environment_and_flags_come_together(tmp_path):
    settings = tmp_path / "caravan.toml"
    settings.write_text("[gateway.policy]\ntimeout_s = 0\n")

    result = start(
        "gateway",
        tmp_path / "home",
        ["--config", str(settings), "--server.max_calls", "0"],
        CARAVAN_GATEWAY__POLICY__CACHE_TTL_S="-1",
    )

    assert result.returncode == SETTINGS
    for setting in ("policy.timeout_s", "policy.cache_ttl_s", "server.max_calls"):
        assert f"gateway: {setting}: " in result.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_data_directory_that_cannot_be_written_ends_the_start(service, stack, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(stack.home / "certs", home / "certs")
    (home / service).write_text("a file where the folder has to be")

    result = start(service, home)

    assert result.returncode == CANNOT_START
    assert "DATA_DIRECTORY_UNWRITABLE" in result.stderr
    assert str(home / service) in result.stderr
    assert "Traceback" not in result.stderr
    assert (home / service).read_text() == "a file where the folder has to be"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere: permissions do not hold it")
@pytest.mark.parametrize("service", SERVICES)
def test_a_data_directory_without_permission_ends_the_start(service, stack, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(stack.home / "certs", home / "certs")
    (home / service).mkdir(mode=0o500)
    home.chmod(0o500)
    try:
        result = start(service, home)
    finally:
        home.chmod(0o700)

    assert result.returncode == CANNOT_START
    assert "DATA_DIRECTORY_UNWRITABLE" in result.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_home_without_certificates_ends_the_start(service, tmp_path):
    result = start(service, tmp_path / "home")

    assert result.returncode == CANNOT_START
    assert "INVALID_CONFIGURATION" in result.stderr
    assert "Traceback" not in result.stderr
