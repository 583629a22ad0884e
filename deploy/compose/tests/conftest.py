"""One real deployment in containers for all tests here: built, started, and removed at the end."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caravan_client import Caravan
from caravan_testkit.network import free_port
from caravan_testkit.tiny_model import write_tiny_gguf
from caravan_testkit.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]

# Ends the processes that run a module; PID 1 is the init, which names the module as well.
KILL = """
import os, pathlib, signal, sys
for process in pathlib.Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_text().split(chr(0))
    if process.name != "1" and sys.argv[1] in words and "-c" not in words:
        print(process.name, flush=True)
        os.kill(int(process.name), signal.SIGKILL)
"""


class Deployment:
    """A compose project of its own, which no other project's containers or volumes belong to."""

    recovery_s = 90.0

    def __init__(self, project: str, models: Path) -> None:
        self.project = project
        self.address = f"127.0.0.1:{free_port()}"
        self.metrics_address = f"127.0.0.1:{free_port()}"
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("CARAVAN_")},
            "CARAVAN_PORT": self.address.rpartition(":")[2],
            "CARAVAN_METRICS_PORT": self.metrics_address.rpartition(":")[2],
            "CARAVAN_MODELS": str(models),
            "CARAVAN_LOAD": "bundled,mounted",
            "CARAVAN_ENGINE_MEMORY": "3g",
        }

    def compose(self, *arguments: str, check: bool = True, input_text: str = "") -> str:
        """Runs a command of compose and returns what it prints; its errors are in the failure."""
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, *arguments],
            cwd=ROOT,
            env=self._environment,
            input=input_text,
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            pytest.fail(f"docker compose {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def build(self) -> None:
        """Builds the images, its progress on the terminal: the first time takes minutes."""
        command = ["docker", "compose", "--project-name", self.project, "build"]
        subprocess.run(command, cwd=ROOT, env=self._environment, stdout=sys.stderr, check=True)

    def python(self, service: str, program: str, *arguments: str, check: bool = True) -> str:
        """Runs a program inside a service's container and returns what it prints."""
        words = ("python", "-c", program, *arguments)
        return self.compose("exec", "--no-TTY", service, *words, check=check)

    def container(self, service: str) -> dict[str, Any]:
        """What Docker knows about a service's container, also about one that has ended."""
        identity = self.compose("ps", "--all", "--quiet", service).strip()
        return json.loads(docker("inspect", identity))[0]

    def is_healthy(self, service: str) -> bool:
        state = self.container(service)["State"]
        return state["Running"] and state["Health"]["Status"] == "healthy"

    def kill(self, service: str, module: str) -> None:
        """Ends the processes of a container that run `module`, as a crash would."""
        killed = self.python(service, KILL, module, check=False)
        assert killed.split(), f"nothing in {service} runs {module}"

    def restart_count(self, service: str) -> int:
        return self.container(service)["RestartCount"]

    def admin_key(self) -> str:
        return self.compose("exec", "--no-TTY", "policy", "cat", "/data/admin.key").strip()

    def metric(self, service: str, port: int, name: str) -> float:
        """The sum of a metric over its labels, read inside the container."""
        program = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
        text = self.python(service, program, f"http://127.0.0.1:{port}/metrics")
        lines = [line.split() for line in text.splitlines() if line.startswith(name)]
        return sum(float(words[-1]) for words in lines)

    def leftovers(self) -> list[str]:
        """Names of containers, volumes and networks of this project."""
        label = f"label=com.docker.compose.project={self.project}"
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [
            name for kind in kinds for name in docker(*kind, "-q", "--filter", label).splitlines()
        ]


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def require_docker() -> None:
    """Ends the run with one clear line where nothing here can work."""
    if shutil.which("docker") is None:
        pytest.exit("compose-test needs Docker: there is no `docker` command", returncode=3)
    for words, what in ((("info",), "the daemon"), (("compose", "version"), "compose version 2")):
        asked = subprocess.run(["docker", *words], capture_output=True, text=True)
        if asked.returncode:
            reason = asked.stderr.strip().splitlines()[-1:]
            pytest.exit(f"compose-test needs Docker, but {what} doesn't answer: {reason}", 3)


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    if os.environ.get("CARAVAN_COMPOSE_TEST") != "1":
        pytest.skip("builds and starts containers, which takes minutes: make compose-test")
    require_docker()
    models = tmp_path_factory.mktemp("models")
    models.chmod(0o755)  # the containers' user isn't ours
    write_tiny_gguf(models / "mounted.gguf").chmod(0o644)
    deployment = Deployment(f"caravan-test-{os.getpid()}", models)
    deployment.build()
    try:
        deployment.compose("up", "--detach", "--no-build")
        wait_until(
            lambda: deployment.is_healthy("gateway"),
            timeout_s=deployment.recovery_s,
            what="all are healthy",
        )
        yield deployment
    except BaseException:
        print(deployment.compose("logs", "--no-color", "--tail", "50", check=False))
        raise
    finally:
        deployment.compose("down", "--volumes", "--remove-orphans", "--timeout", "20")
        assert not deployment.leftovers()


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Caravan]:
    with Caravan(deployment.address, api_key=deployment.admin_key(), timeout_s=30) as client:
        yield client
