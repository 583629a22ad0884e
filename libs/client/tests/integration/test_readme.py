"""The examples of the README run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def environment(gateway, api_key) -> dict[str, str]:
    scripts = Path(sys.executable).parent
    return {
        **os.environ,
        "CARAVAN_ADDRESS": gateway.address,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code, environment):
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert "upon " in result.stdout


def test_command_examples_run(environment, gateway):
    (script,) = blocks("sh")
    command = ["bash", "-euo", "pipefail", "-c", script]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "completed" in result.stdout
    assert [turn.content for turn in gateway.calls[1][1].chat.messages] == [
        "Be short.",
        "Summarise: Caravan serves models.",
    ]
