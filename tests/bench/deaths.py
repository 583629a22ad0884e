"""How long streams stand still when their worker is killed: from its death to their next token."""

import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from caravan_testkit.stack import Stack
from clients import WorkloadFailedError
from report import Bound, Figure
from servers import MODEL_FILE, Caravan, Running, Shape, ensure_model, worker_addresses
from sources import Call
from workloads import FIRST_ORDINARY_TOKEN, VOCABULARY

ROUNDS = 5
CONTEXT, LITTLE = 512, 16
EMITTED_BEFORE = 24
PAGES_ON_DISK: Mapping[str, str] = {
    "CARAVAN_ENGINE__KV__DISK_BUDGET_BYTES": str(2**32),
    "CARAVAN_ENGINE__JOURNAL__ENABLED": "true",
}
_SHAPE = Shape(seats=8, cells=4096)
_AT_ONCE = {"CARAVAN_ENGINE__WORKERS__MAX_BACKOFF_S": "0.25"}  # however many were killed before
_KEEPING = Caravan(name="pages on disk", shape=_SHAPE, settings={**_AT_ONCE, **PAGES_ON_DISK})
_FORGETTING = Caravan(name="nothing on disk", shape=_SHAPE, settings=_AT_ONCE)
_TWO = Caravan(
    name="two replicas, pages on disk",
    shape=_SHAPE,
    settings={**_AT_ONCE, **PAGES_ON_DISK, "CARAVAN_ENGINE__MODELS__REPLICAS": "2"},
)


def death_figures() -> Iterator[Figure]:
    """Kills workers of deployments in alternation; yields medians.

    The restart itself is what a stream with hardly any context waits, in the same deployment.
    """
    ensure_model()
    gaps: dict[tuple[str, int], list[float]] = {}
    with contextlib.ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        running = [
            exits.enter_context(each.running(folder / str(number)))[0]
            for number, each in enumerate((_KEEPING, _FORGETTING, _TWO))
        ]
        for number in range(1, ROUNDS + 1):
            for server in running if number % 2 else running[::-1]:
                for context in (LITTLE, CONTEXT):
                    gap_s = _gap_s(server, context)
                    gaps.setdefault((server.source.name, context), []).append(gap_s)
                    told = f"{server.source.name}, {context} tokens: {gap_s:.2f} s"
                    print(f"failover, round {number}: {told}", file=sys.stderr)
    yield from _figures({key: statistics.median(each) for key, each in gaps.items()})


def _figures(gaps: Mapping[tuple[str, int], float]) -> Iterator[Figure]:
    names = {
        (_KEEPING.name, LITTLE): "restart (death to next token, 16 tokens of context)",
        (_KEEPING.name, CONTEXT): "the same with 512 tokens, restored from disk",
        (_FORGETTING.name, CONTEXT): "the same with 512 tokens, computed again",
    }
    for key, name in names.items():
        yield Figure(name, gaps[key], "s")
    restoring = gaps[_KEEPING.name, CONTEXT] - gaps[_KEEPING.name, LITTLE]
    computing = gaps[_FORGETTING.name, CONTEXT] - gaps[_FORGETTING.name, LITTLE]
    share = 100 * restoring / computing
    yield Figure("beyond the restart, of what computing takes", share, "%", Bound.AT_MOST, 10)
    elsewhere = gaps[_TWO.name, CONTEXT]
    name = "death to next token on another replica, 512 tokens"
    yield Figure(name, elsewhere, "s", Bound.AT_MOST, 0.5)


def _gap_s(server: Running, context: int) -> float:
    """Kills the worker of a stream in its middle; returns how long the next token took."""
    generator = random.Random(time.monotonic_ns())
    prompt = [generator.randrange(FIRST_ORDINARY_TOKEN, VOCABULARY) for _ in range(context)]
    if server.stack is None:
        raise TypeError("only Caravan's workers are killed")
    workers = _all_workers(server.stack, 2 if server.source.name == _TWO.name else 1)
    before = {worker: _cpu_s(worker) for worker in workers}
    tokens = server.source.stream(Call(prompt, 4 * EMITTED_BEFORE))
    num_tokens = 0
    while num_tokens < EMITTED_BEFORE:
        num_tokens += len(next(tokens))
    busiest = max(workers, key=lambda worker: _cpu_s(worker) - before[worker])
    busiest.kill()
    killed = time.perf_counter()
    next(tokens)
    gap_s = time.perf_counter() - killed
    for _ in tokens:
        pass
    return gap_s


def _all_workers(stack: Stack, wanted: int) -> list[psutil.Process]:
    """The workers of a deployment, when as many as wanted take calls."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        workers = [each for each in stack.workers() if _is_of_bench(each)]
        if len(workers) == len(worker_addresses(stack)) == wanted:
            return workers
        time.sleep(0.2)
    raise WorkloadFailedError("workers that don't come back")


def _is_of_bench(worker: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return f"{MODEL_FILE.stem}#" in worker.cmdline()[-1]
    return False


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
