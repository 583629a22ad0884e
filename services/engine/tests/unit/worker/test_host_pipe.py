import os
import subprocess
import sys

import pytest

from caravan_engine.control.events import Failed, LoadPhase, Progress, decode
from caravan_engine.domain.errors import ModelTooLargeError
from caravan_engine.worker.host_pipe import HostPipe
from caravan_rpckit.errors import Reason


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield HostPipe(writer, on_host_gone=lambda: None), lambda: os.read(reader, 65536).splitlines()
    os.close(reader)
    os.close(writer)


def progress(fraction, phase=LoadPhase.LOADING):
    return Progress(phase=phase, fraction=fraction)


def test_progress_that_hardly_moves_is_left_out(pipe):
    host, said = pipe
    for step in range(1001):
        host.say(progress(step / 1000))

    fractions = [decode(line).fraction for line in said()]
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert 50 < len(fractions) <= 102


def test_a_new_phase_is_always_said(pipe):
    host, said = pipe
    host.say(progress(0.5))
    host.say(progress(0.5, LoadPhase.WARMING_UP))

    assert len(said()) == 2


def test_a_known_error_is_told_with_its_reason_and_metadata(pipe):
    host, said = pipe
    host.say_failed(ModelTooLargeError(needed_bytes=2, budget_bytes=1))

    event = decode(said()[0])
    assert event.reason is Reason.MODEL_TOO_LARGE
    assert event.metadata == {"needed_bytes": "2", "budget_bytes": "1"}


def test_of_an_unexpected_error_only_the_kind_is_told(pipe):
    host, said = pipe
    host.say_failed(ValueError("canary"))

    event = decode(said()[0])
    assert isinstance(event, Failed)
    assert "ValueError" in event.message
    assert "canary" not in event.message


def test_a_host_that_is_gone_is_noticed():
    reader, writer = os.pipe()
    os.close(reader)
    noticed = []
    HostPipe(writer, on_host_gone=lambda: noticed.append(True)).say(progress(0.0))
    os.close(writer)

    assert noticed == [True]


PROGRAM = """
import os, sys, time
from caravan_engine.control.events import LoadPhase, Progress
from caravan_engine.worker.host_pipe import HostPipe, leave, read_settings_line, watch_stdin
host = HostPipe.over_stdout(on_host_gone=lambda: leave(3))
line = read_settings_line()
watch_stdin(lambda: leave(4))
os.write(1, b"noise of a library\\n")
print("noise of python", flush=True)
host.say(Progress(phase=LoadPhase.LOADING, fraction=len(line) / 100))
while True:
    pass
"""


def test_standard_output_belongs_to_the_host_and_the_end_of_input_ends_a_busy_program():
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    program.stdin.write(b"settings\n")
    program.stdin.flush()
    event = decode(program.stdout.readline())
    output, errors = program.communicate(timeout=30)

    assert event.fraction == 0.09
    assert output == b""
    assert errors.splitlines() == [b"noise of a library", b"noise of python"]
    assert program.returncode == 4
