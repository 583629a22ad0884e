"""Compares the engine's throughput with a bare loop over the same backend, in alternation.

    python services/engine/benchmarks/loop_against_bare.py [--model PATH] [--rounds 3]

Clients with distinct prompts, greedy. The bare loop computes the same tokens with the same batch
sizes, takes the maximum of each row and does nothing else: no scheduler, text, events or asyncio.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.events import Delta
from caravan_engine.domain.paging.kv_setup import KvOptions, make_kv_manager
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.step import Chunk, StepPlan
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.output_stream import LoopNotifier
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.storage.checksums import checksum
from caravan_testkit.tiny_model import write_bench_gguf

_CLIENTS, _INPUT, _OUTPUT, _BUDGET = 8, 256, 32, 512
_GREEDY = SamplingOptions(temperature=0)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.model or write_bench_gguf(Path(folder) / "bench.gguf")
        backend = LlamaCppBackend(
            LlamaCppSettings(model_path=path, num_cells=4096, num_seats=_CLIENTS)
        )
        generator = np.random.default_rng(0)
        size = backend.vocabulary.size
        prompts = [tuple(map(int, generator.integers(300, size, _INPUT))) for _ in range(_CLIENTS)]
        _compare(backend, prompts, arguments.rounds)
        backend.close()


def _compare(backend: LlamaCppBackend, prompts: list[tuple[int, ...]], rounds: int) -> None:
    _bare(backend, prompts[:1])  # warm up
    bare, engine, ttfts, inside = [], [], [], []
    for number in range(rounds):
        for run_bare in (True, False) if number % 2 == 0 else (False, True):
            if run_bare:
                bare.append(_bare(backend, prompts))
            else:
                seconds, ttft, decode_s = asyncio.run(_engine(backend, prompts))
                engine.append(seconds)
                ttfts.append(ttft)
                inside.append(decode_s / seconds)
    total = _CLIENTS * _OUTPUT
    for name, seconds in (("bare", bare), ("engine", engine)):
        listed = " ".join(f"{each:.2f}" for each in seconds)
        print(f"{name:8} {total / statistics.median(seconds):6.1f} tokens/s   seconds: {listed}")
    ratios = [each / own for each, own in zip(bare, engine, strict=True)]
    print(f"engine / bare throughput: median {statistics.median(ratios):.3f} of {ratios}")
    print(f"engine TTFT p50: {statistics.median(ttfts):.2f} s")
    print(f"engine time inside llama_decode: {statistics.median(inside):.2%}")


def _bare(backend: LlamaCppBackend, prompts: list[tuple[int, ...]]) -> float:
    sampler = TokenSampler(_GREEDY, seed=0, candidates=None, history=())
    started = time.perf_counter()
    latest: list[int] = []
    per_step = _BUDGET // _INPUT
    for first in range(0, len(prompts), per_step):
        group = list(enumerate(prompts))[first : first + per_step]
        plan = StepPlan((), tuple(Chunk(seat, 0, prompt, sampler) for seat, prompt in group))
        latest += [int(row.argmax()) for row in backend.decode(plan)]
    for position in range(_INPUT, _INPUT + _OUTPUT - 1):
        chunks = (Chunk(seat, position, (token,), sampler) for seat, token in enumerate(latest))
        latest = [int(row.argmax()) for row in backend.decode(StepPlan((), tuple(chunks)))]
    seconds = time.perf_counter() - started
    for seq_id in range(_CLIENTS):
        backend.release(seq_id)
    return seconds


async def _engine(
    backend: LlamaCppBackend, prompts: list[tuple[int, ...]]
) -> tuple[float, float, float]:
    options = KvOptions(num_seats=_CLIENTS, num_cells=4096)
    engine = EngineLoop(
        backend,
        SchedulerLimits(
            num_seats=_CLIENTS, num_cells=4096, context_tokens=1024, token_budget=_BUDGET
        ),
        PagedMemory(make_kv_manager(options), checksum),
        notify=LoopNotifier(asyncio.get_running_loop()),
        on_fatal=lambda error: print("fatal", error),
    )
    engine.start()
    started = time.perf_counter()
    ttfts = await asyncio.gather(*(_read(engine, prompt) for prompt in prompts))
    seconds = time.perf_counter() - started
    decode_s = engine.stats().decode_s
    await asyncio.to_thread(engine.stop)
    return seconds, statistics.median(ttfts), decode_s


async def _read(engine: EngineLoop, prompt: tuple[int, ...]) -> float:
    request = GenerationRequest(
        request_id="bench",
        prompt=prompt,
        sampling=_GREEDY,
        seed=0,
        max_output_tokens=_OUTPUT,
        ignore_eos=True,
    )
    started = time.perf_counter()
    ttft = None
    async for event in engine.submit(request):
        if ttft is None and isinstance(event, Delta):
            ttft = time.perf_counter() - started
    return ttft or 0.0


if __name__ == "__main__":
    main()
