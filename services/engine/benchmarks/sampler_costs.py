"""Measures what choosing a token costs the decode thread, by sampler.

    python services/engine/benchmarks/sampler_costs.py [--vocabulary 32000] [--sequences 16]

Milliseconds of the thread's own processor time for one token of each sequence, the median of many
rounds over rows of random logits; so other load on the machine hardly counts.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.sampling.logprobs import RowLogprobs
from caravan_engine.domain.sampling.options import (
    DryOptions,
    MirostatOptions,
    SamplingOptions,
    XtcOptions,
)
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_testkit.tiny_model import TINY, write_tiny_gguf

_ROUNDS, _HISTORY_TOKENS = 60, 2048

SAMPLERS = {
    "greedy": SamplingOptions(temperature=0),
    "top-k 40, top-p, min-p, temperature (default)": SamplingOptions(),
    "default and penalties over 64": SamplingOptions(repeat_penalty=1.1),
    "default and penalties over 1024": SamplingOptions(repeat_penalty=1.1, penalty_last_n=1024),
    "default and DRY over 1024": SamplingOptions(dry=DryOptions(multiplier=0.8)),
    "default and XTC, always": SamplingOptions(xtc=XtcOptions(probability=1.0)),
    "default and typical-p": SamplingOptions(typical_p=0.9),
    "best 1024, top-p, min-p, temperature": SamplingOptions(top_k=0),
    "best 1024 and typical-p": SamplingOptions(top_k=0, typical_p=0.9),
    "Mirostat 2 (best 1024)": SamplingOptions(mirostat=MirostatOptions()),
}


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--sequences", type=int, default=16)
    arguments = parser.parse_args()
    logits = np.random.default_rng(0).normal(0, 3, (arguments.sequences, arguments.vocabulary))
    rows = logits.astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        shape = replace(TINY, vocabulary_size=arguments.vocabulary)
        path = write_tiny_gguf(Path(folder) / "thin.gguf", shape=shape)
        backend = LlamaCppBackend(LlamaCppSettings(model_path=path, num_cells=256, num_seats=1))
        print("| sampler | ms a step |\n| --- | --- |")
        for name, options in SAMPLERS.items():
            print(f"| {name} | {_cost_ms(backend, options, rows):.2f} |")
        print(f"| 5 log-probabilities, beside any of these | {_logprobs_ms(rows):.2f} |")
        backend.close()


def _cost_ms(backend: LlamaCppBackend, options: SamplingOptions, rows: np.ndarray) -> float:
    history = np.random.default_rng(1).integers(300, 2000, _HISTORY_TOKENS).tolist()
    samplers = [
        TokenSampler(
            options,
            seed=seed,
            candidates=backend.candidate_filter(options),
            history=history,
            pieces=backend.vocabulary.pieces,
        )
        for seed in range(len(rows))
    ]
    costs = []
    for position in range(_ROUNDS):
        fresh = rows.copy()
        started = time.thread_time()
        for row, sampler in zip(fresh, samplers, strict=True):
            sampler.accept(sampler.choose(row, position))
        costs.append(time.thread_time() - started)
    return statistics.median(costs) * 1000


def _logprobs_ms(rows: np.ndarray) -> float:
    costs = []
    for _ in range(_ROUNDS):
        started = time.thread_time()
        for row in rows:
            RowLogprobs(row, 5).of(0)
        costs.append(time.thread_time() - started)
    return statistics.median(costs) * 1000


if __name__ == "__main__":
    main()
