import sys
from pathlib import Path

import pytest

from deployment import Deployment
from probes import pick_free_port
from supervision import Program

DUMMY = Path(__file__).with_name("dummy_service.py")


@pytest.fixture
def dummy():
    """Returns a function that makes a program with nothing but an operations port."""

    def make(name, behaviour="ready", **ports):
        port = pick_free_port()
        command = (sys.executable, str(DUMMY), str(port), behaviour)
        return Program(name, command, ops_port=port, **ports)

    return make


@pytest.fixture
def deploy(tmp_path):
    """Returns a function that makes a deployment, and ends all of them afterwards."""
    made = []

    def make(*programs, home=tmp_path / "data directory"):
        made.append(Deployment(tmp_path, home, programs))
        return made[-1]

    yield make
    for deployment in made:
        deployment.stop()
