"""Measures what a long prompt does to those who decode, for several bounds on a step's time.

    python services/engine/benchmarks/long_prompt_among_chats.py [--model PATH] [--rounds 3]
        [--chats 8] [--output 160] [--prompt 4096] [--step-ms 0 250 500 1000]

Chats decode; when they have a tenth of their text, a long prompt arrives. The bounds take turns.
Prints each run, and medians: the longest gap between two tokens of a chat, the time until all are
done, and the time to the long prompt's first token.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.events import Delta
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.output_stream import EventPacer, LoopNotifier
from caravan_testkit.tiny_model import write_bench_gguf

_CHAT_INPUT, _LONG_OUTPUT, _BUDGET, _CELLS = 64, 8, 512, 8192


@dataclass
class Reading:
    """When one client got its tokens."""

    num_expected: int
    moments: list[float] = field(default_factory=list)
    has_tenth: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self) -> None:
        """A token came."""
        self.moments.append(time.perf_counter())
        if len(self.moments) * 10 >= self.num_expected:
            self.has_tenth.set()

    @property
    def longest_gap(self) -> float:
        """Seconds between two tokens, at most."""
        pairs = zip(self.moments, self.moments[1:], strict=False)
        return max(after - before for before, after in pairs)


@dataclass(frozen=True)
class Result:
    """What a run took, in seconds."""

    longest_gap: float
    total: float
    long_ttft: float


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chats", type=int, default=8)
    parser.add_argument("--output", type=int, default=160)
    parser.add_argument("--prompt", type=int, default=4096)
    parser.add_argument("--step-ms", type=int, nargs="+", default=[0, 250, 500, 1000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.model or write_bench_gguf(Path(folder) / "bench.gguf")
        backend = LlamaCppBackend(
            LlamaCppSettings(model_path=path, num_cells=_CELLS, num_seats=arguments.chats + 1)
        )
        results: dict[int, list[Result]] = {bound: [] for bound in arguments.step_ms}
        for _ in range(arguments.rounds):
            for bound, found in results.items():
                found.append(asyncio.run(_run(backend, bound, arguments)))
                print(bound, found[-1], flush=True)
        backend.close()
    print(f"{'step_time_ms':>12} {'longest gap':>12} {'total':>8} {'long TTFT':>10}   seconds")
    for bound, found in results.items():
        gap, total, ttft = (
            statistics.median(getattr(each, name) for each in found)
            for name in ("longest_gap", "total", "long_ttft")
        )
        listed = " ".join(f"{each.longest_gap:.2f}/{each.total:.1f}" for each in found)
        print(f"{bound:12} {gap:12.2f} {total:8.1f} {ttft:10.1f}   {listed}")


async def _run(
    backend: LlamaCppBackend, step_time_ms: int, arguments: argparse.Namespace
) -> Result:
    limits = SchedulerLimits(
        num_seats=arguments.chats + 1,
        num_cells=_CELLS,
        context_tokens=arguments.prompt + 256,
        token_budget=_BUDGET,
        step_time_s=step_time_ms / 1000,
        attention_tile=backend.attention_tile,
    )
    engine = EngineLoop(
        backend,
        limits,
        notify=LoopNotifier(asyncio.get_running_loop()),
        on_fatal=lambda error: print("fatal", error),
        pacer=EventPacer(max_interval_s=0),
    )
    engine.start()
    generator = np.random.default_rng(0)

    def prompt(length: int) -> tuple[int, ...]:
        return tuple(map(int, generator.integers(300, backend.vocabulary.size, length)))

    chats = [Reading(arguments.output) for _ in range(arguments.chats)]
    started = time.perf_counter()
    reading = [asyncio.create_task(_read(engine, prompt(_CHAT_INPUT), chat)) for chat in chats]
    await asyncio.gather(*(chat.has_tenth.wait() for chat in chats))
    long, arrived = Reading(_LONG_OUTPUT), time.perf_counter()
    await _read(engine, prompt(arguments.prompt), long)
    await asyncio.gather(*reading)
    total = time.perf_counter() - started
    await asyncio.to_thread(engine.stop)
    return Result(max(chat.longest_gap for chat in chats), total, long.moments[0] - arrived)


async def _read(engine: EngineLoop, prompt: tuple[int, ...], reading: Reading) -> None:
    request = GenerationRequest(
        request_id="bench",
        prompt=prompt,
        sampling=SamplingOptions(temperature=0),
        seed=0,
        max_output_tokens=reading.num_expected,
        ignore_eos=True,
    )
    async for event in engine.submit(request):
        if isinstance(event, Delta):
            for _ in event.token_ids:
                reading.add()


if __name__ == "__main__":
    main()
