"""Measures how long ggml's threads should spin for each other before they sleep.

    python services/engine/benchmarks/thread_waiting.py [--rounds 3] [--layers 4]

libgomp spins at each barrier, several hundred times a step. Alone on a machine that is fastest;
beside other busy processes a spinning thread keeps the core from the one it waits for. Each value
of GOMP_SPINCOUNT is measured in processes of their own, in alternation; run it on a calm machine
and beside load.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.step import Chunk, StepPlan
from caravan_testkit.tiny_model import BENCH, write_tiny_gguf

_VALUES = ("unset", "30000", "10000", "3000", "1000", "300", "passive")
_SEATS, _STEPS = 8, 150


def main() -> None:
    """Measures and prints, or measures once as a child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--measure", type=Path, help="for the child: the model")
    arguments = parser.parse_args()
    if arguments.measure:
        print(*_step_times_ms(arguments.measure))
        return
    with tempfile.TemporaryDirectory() as folder:
        shape = replace(BENCH, num_layers=arguments.layers)
        path = write_tiny_gguf(Path(folder) / "model.gguf", shape=shape)
        _compare(path, arguments.rounds)


def _compare(path: Path, rounds: int) -> None:
    times: dict[str, list[float]] = {value: [] for value in _VALUES}
    for _ in range(rounds):
        for value in _VALUES:
            times[value] += _in_child(path, value)
    print(f"{'GOMP_SPINCOUNT':16} fastest   median     mean   (ms a step of {_SEATS} sequences)")
    for value, steps in times.items():
        numbers = (min(steps), statistics.median(steps), statistics.fmean(steps))
        print(f"{value:16}" + "".join(f"{number:8.1f} " for number in numbers))


def _in_child(path: Path, value: str) -> list[float]:
    chosen = {"unset": {}, "passive": {"OMP_WAIT_POLICY": "passive"}}
    environment = chosen.get(value, {"GOMP_SPINCOUNT": value})
    child = subprocess.run(
        [sys.executable, __file__, "--measure", str(path)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return [float(each) for each in child.stdout.split()]


def _step_times_ms(path: Path) -> list[float]:
    backend = LlamaCppBackend(LlamaCppSettings(model_path=path, num_cells=2048, num_seats=_SEATS))
    greedy = SamplingOptions(temperature=0)
    sampler = TokenSampler(greedy, seed=0, candidates=None, history=())
    times = []
    for position in range(_STEPS):
        chunks = tuple(Chunk(seat, position, (500,), sampler) for seat in range(_SEATS))
        started = time.perf_counter()
        backend.decode(StepPlan((), chunks))
        times.append((time.perf_counter() - started) * 1000)
    backend.close()
    return times


if __name__ == "__main__":
    main()
