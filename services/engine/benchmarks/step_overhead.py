"""Measures the engine's own work per step: everything but the time inside `llama_decode`.

    python services/engine/benchmarks/step_overhead.py [--vocabulary 32000] [--seats 16]

A thin model (2 layers) with a full-size vocabulary, so that steps are short and many. Prints
milliseconds a step: choosing tokens, and all the rest of the loop (schedule, batch, apply, text,
events).
"""

import argparse
import asyncio
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.paging.kv_setup import KvOptions, make_kv_manager
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.sampling.options import (
    DryOptions,
    MirostatOptions,
    SamplingOptions,
    XtcOptions,
)
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.output_stream import LoopNotifier
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.runtime.stats import StatsSnapshot
from caravan_engine.storage.checksums import checksum
from caravan_testkit.tiny_model import TINY, write_tiny_gguf

_OUTPUT_TOKENS = 200

WORKLOADS: dict[str, tuple[SamplingOptions, tuple[str, ...]]] = {
    "greedy": (SamplingOptions(temperature=0), ()),
    "top-k 40, top-p, min-p, temperature": (SamplingOptions(), ()),
    "the same, penalties": (SamplingOptions(repeat_penalty=1.1, frequency_penalty=0.1), ()),
    "the same, penalties over 1024": (
        SamplingOptions(repeat_penalty=1.1, penalty_last_n=1024),
        (),
    ),
    "the same, 4 stop strings": (SamplingOptions(), ("\n\n", "User:", "###", "<|im_end|>")),
    "top-k off": (SamplingOptions(top_k=0), ()),
    "the same, typical-p": (SamplingOptions(top_k=0, typical_p=0.9), ()),
    "top-k 40, typical-p": (SamplingOptions(typical_p=0.9), ()),
    "top-k 40, XTC": (SamplingOptions(xtc=XtcOptions(probability=0.5)), ()),
    "top-k 40, DRY over 1024": (SamplingOptions(dry=DryOptions(multiplier=0.8)), ()),
    "Mirostat 2": (SamplingOptions(mirostat=MirostatOptions()), ()),
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--seats", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shape = replace(TINY, vocabulary_size=arguments.vocabulary, context_length=32_768)
        path = write_tiny_gguf(Path(folder) / "thin.gguf", shape=shape)
        backend = LlamaCppBackend(
            LlamaCppSettings(model_path=path, num_cells=16_384, num_seats=arguments.seats)
        )
        asyncio.run(_measure(backend, arguments.seats))
        backend.close()


async def _measure(backend: LlamaCppBackend, num_seats: int) -> None:
    limits = SchedulerLimits(
        num_seats=num_seats, num_cells=16_384, context_tokens=1024, token_budget=512
    )
    options = KvOptions(num_seats=num_seats, num_cells=16_384)
    engine = EngineLoop(
        backend,
        limits,
        PagedMemory(make_kv_manager(options), checksum),
        notify=LoopNotifier(asyncio.get_running_loop()),
        on_fatal=lambda error: print("fatal", error),
    )
    engine.start()
    print(f"{'ms a step':40} sampling   rest  total   decode")
    for name, (options, stops) in WORKLOADS.items():
        before = engine.stats()
        await asyncio.gather(*(_read(engine, i, options, stops) for i in range(num_seats)))
        _print(name, before, engine.stats())
    before, greedy = engine.stats(), SamplingOptions(temperature=0)
    await asyncio.gather(*(_read(engine, i, greedy, (), num_top=5) for i in range(num_seats)))
    _print("greedy, 5 log-probabilities", before, engine.stats())
    await asyncio.to_thread(engine.stop)


async def _read(
    engine: EngineLoop,
    number: int,
    options: SamplingOptions,
    stops: tuple[str, ...],
    num_top: int | None = None,
) -> None:
    request = GenerationRequest(
        request_id=str(number),
        prompt=tuple(range(300 + number, 340 + number)),
        sampling=options,
        seed=number,
        stop=stops,
        max_output_tokens=_OUTPUT_TOKENS,
        ignore_eos=True,
        num_top_logprobs=num_top,
    )
    async for _ in engine.submit(request):
        pass


def _print(name: str, before: StatsSnapshot, after: StatsSnapshot) -> None:
    num_steps = after.num_steps - before.num_steps
    sample, decode, step = (
        (getattr(after, field) - getattr(before, field)) / num_steps * 1000
        for field in ("sample_s", "decode_s", "step_s")
    )
    rest = step - sample - decode
    print(f"{name:40} {sample:8.2f} {rest:6.2f} {sample + rest:6.2f} {decode:8.2f}")


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{time.perf_counter() - started:.1f} s in all")
