"""How a worker ends when its host is gone."""

import os
import subprocess
import sys

_LEAVES_UNFLUSHED = """
import io, sys
from caravan_engine.worker.host_pipe import leave
sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w")))
sys.stderr.write("half a line")
sys.stdin.read()
leave(7)
"""


def test_a_worker_leaves_though_nobody_reads_its_last_words():
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _LEAVES_UNFLUSHED], stdin=subprocess.PIPE, stderr=writing
    )
    os.close(writing)
    os.close(reading)
    process.stdin.close()
    assert process.wait(20) == 7
