"""What a sequence has that is computed alone, and how far a state is from it."""

import sys

import numpy as np

from caravan_engine.backends.kv_state import parse_kv_state
from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.step import Chunk, StepPlan

NUM_SEATS, NUM_CELLS = 16, 4096
SAMPLER = TokenSampler(SamplingOptions(temperature=0), seed=0, candidates=None, history=())


def load(path, *, num_seats=NUM_SEATS, num_cells=NUM_CELLS):
    return LlamaCppBackend(
        LlamaCppSettings(
            model_path=path,
            num_cells=num_cells,
            num_seats=num_seats + 2,  # two sequences more for the mutations
            batch_tokens=512,
        )
    )


class Solo:
    def __init__(self, backend):
        self._backend = backend

    def state(self, tokens, *, chunk_tokens=512):
        """Returns K and V by position, each row as one vector: (position, features)."""
        self._compute(tokens, chunk_tokens)
        rows = by_position(self._backend.export_state(0))
        self._backend.release(0)
        return rows

    def logits(self, tokens, first, *, chunk_tokens=512):
        """Returns the logits after each of `tokens[first:]`; what is before comes in chunks."""
        self._compute(tokens[:first], chunk_tokens)
        rows = [
            self._backend.decode(StepPlan((), (Chunk(0, at, (tokens[at],), SAMPLER),)))[0].copy()
            for at in range(first, len(tokens))
        ]
        self._backend.release(0)
        return np.array(rows)

    def _compute(self, tokens, chunk_tokens):
        for start in range(0, len(tokens), chunk_tokens):
            part = tuple(tokens[start : start + chunk_tokens])
            self._backend.decode(StepPlan((), (Chunk(0, start, part, None),)))


def by_position(state):
    parsed = parse_kv_state(state)
    order = np.argsort(parsed.positions)
    layers = [rows[order].view(np.float16).astype(np.float32) for rows in parsed.keys]
    layers += [rows[order].view(np.float16).astype(np.float32) for rows in parsed.values]
    return layers


def distances(one, other):
    """Returns for each position the largest relative distance over all layers' K and V."""
    per_layer = [
        np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)
        for a, b in zip(one, other, strict=True)
    ]
    return np.max(per_layer, axis=0)


def calibrate(solo, tokens):
    """Returns how far rounding moves a row, how near the rows of wrong cells come, and a bound."""
    whole = solo.state(tokens)
    rounding = max(
        distances(solo.state(tokens, chunk_tokens=size), whole).max() for size in (1, 7, 64)
    )
    shifted = [np.roll(layer, 1, axis=0) for layer in whole]
    wrong = np.quantile(distances(shifted, whole), 0.01)
    bound = float(np.sqrt(max(rounding, 1e-3) * wrong))
    say(f"K/V rows: rounding up to {rounding:.2e}, wrong cells from {wrong:.2e}, bound {bound:.2e}")
    assert rounding * 10 < wrong
    return bound


def logit_rounding(solo, tokens):
    """Returns how far the division of a history into chunks moves the logits after it."""
    one, other = (solo.logits(tokens, len(tokens) - 1, chunk_tokens=size) for size in (512, 1))
    return np.abs(one - other).max()


def say(line):
    print(line, file=sys.stderr)
