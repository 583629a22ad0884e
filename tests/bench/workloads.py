"""What is asked of each server, and what one run of it measured. Bounded in count and time."""

import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from streams import TokenSource

FIRST_ORDINARY_TOKEN = 300  # below are the control and byte tokens of the generated vocabulary


@dataclass(frozen=True, slots=True)
class Workload:
    """`num_clients` at once, each with a prompt of its own."""

    name: str
    num_clients: int
    input_tokens: int
    output_tokens: int


ONE_CLIENT = Workload("one client alone", 1, 64, 128)
DISTINCT = Workload("distinct", 8, 256, 32)


@dataclass(slots=True)
class ClientTimes:
    """Arrivals at one client, in seconds from the start of the run."""

    arrivals: list[float] = field(default_factory=list)
    num_tokens: int = 0
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a workload."""

    tokens_per_s: float
    ttft_p50_s: float
    longest_gap_s: float
    wall_s: float


def run(source: TokenSource, workload: Workload, vocabulary_size: int, seed: int) -> Run:
    """Runs `workload` once.

    Raises:
        RuntimeError: a client failed or got another number of tokens than it asked for.
    """
    generator = random.Random(seed)
    prompts = [
        [
            generator.randrange(FIRST_ORDINARY_TOKEN, vocabulary_size)
            for _ in range(workload.input_tokens)
        ]
        for _ in range(workload.num_clients)
    ]
    times = [ClientTimes() for _ in prompts]
    start = time.perf_counter()
    threads = [
        threading.Thread(target=_consume, args=(source, prompt, workload, start, mine))
        for prompt, mine in zip(prompts, times, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _summary(times, workload, time.perf_counter() - start)


def _consume(
    source: TokenSource,
    prompt: Sequence[int],
    workload: Workload,
    start: float,
    times: ClientTimes,
) -> None:
    try:
        for count in source.stream(prompt, workload.output_tokens):
            times.arrivals.append(time.perf_counter() - start)
            times.num_tokens += count
    except Exception as error:  # noqa: BLE001 (handed to the thread that reports it)
        times.error = error


def _summary(times: list[ClientTimes], workload: Workload, wall_s: float) -> Run:
    for each in times:
        if each.error is not None:
            raise RuntimeError(f"a client failed: {each.error}") from each.error
        if each.num_tokens != workload.output_tokens:
            raise RuntimeError(f"{each.num_tokens} tokens, not {workload.output_tokens}")
    gaps = [
        later - earlier
        for each in times
        for earlier, later in zip(each.arrivals, each.arrivals[1:], strict=False)
    ]
    return Run(
        tokens_per_s=sum(each.num_tokens for each in times) / wall_s,
        ttft_p50_s=statistics.median(each.arrivals[0] for each in times),
        longest_gap_s=max(gaps, default=0.0),
        wall_s=wall_s,
    )
