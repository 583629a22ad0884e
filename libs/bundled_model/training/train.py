"""Trains the bundled model from nothing; see README.md.

Usage: train.py --out DIRECTORY [--steps N] [--seed N]; run again, it goes on from its checkpoint.
"""

import argparse
import functools
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from corpus.documents import Document
from corpus.mixture import documents, paraphrase_documents, shares
from model import Shape, Weights, logits, make_weights
from optimizer import make_optimizer
from packing import Rows, pack
from tokenizer import Tokenizer, count_words, learn

VOCABULARY = 2048
_TOKENIZER_DOCUMENTS = 20_000
_CHUNK = 50
_STEP_TOKENS = 2048
_WARM_UP = 100
_DECAY_SHARE = 0.4
_SAVE_S = 90.0
_LEAST_ANSWER = 0.2
"""What a token of an answer counts at least."""
_HELD_OUT_SEED = "held out"


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with rows of one length."""

    length: int
    most_filler: int
    jumps: bool


NEAR = Phase(length=256, most_filler=6, jumps=False)
"""Recall over short distances, until it is found at all."""
SHORT = Phase(length=256, most_filler=20, jumps=True)
LONGER = Phase(length=512, most_filler=45, jumps=True)
LONGEST = Phase(length=1024, most_filler=95, jumps=False)
_NEAR_STEPS = 150
_REST = ((0.72, SHORT), (0.90, LONGER), (1.0, LONGEST))


def make_tokenizer(seed: int) -> Tokenizer:
    """Learns the tokenizer from a sample of the corpus."""
    draw = random.Random(f"{seed}/tokenizer")
    stream = documents(draw, shares(NEAR.most_filler))
    sample = (next(stream) for _ in range(_TOKENIZER_DOCUMENTS))
    words = count_words(span.text for text in sample for span in text if not span.special)
    return learn(words, VOCABULARY)


def phase_of(step: int, steps: int) -> Phase:
    """Returns the phase of a step: the first ends at a fixed step, the others at shares."""
    if step < _NEAR_STEPS:
        return NEAR
    return next(phase for share, phase in _REST if step < share * steps)


def chunk_of_rows(seed: int, step: int, steps: int, tokenizer: Tokenizer) -> Rows:
    """Makes the rows of the `_CHUNK` steps that begin at `step`; depends on nothing before."""
    phase = phase_of(step, steps)
    draw = random.Random(f"{seed}/{step}")
    return pack(
        documents(draw, shares(phase.most_filler)),
        tokenizer,
        num_rows=_CHUNK * _STEP_TOKENS // phase.length,
        length=phase.length,
        jumps=draw if phase.jumps else None,
    )


def batches(seed: int, first: int, steps: int, tokenizer: Tokenizer) -> Iterator[Rows]:
    """Yields the batch of each step; `first` is a multiple of the chunk."""
    for step in range(first, steps, _CHUNK):
        rows = chunk_of_rows(seed, step, steps, tokenizer)
        count = len(rows.tokens) // _CHUNK
        for begin in range(0, len(rows.tokens), count):
            yield _part(rows, begin, begin + count)


def _part(rows: Rows, begin: int, end: int) -> Rows:
    return Rows(
        rows.tokens[begin:end],
        rows.weights[begin:end],
        rows.segments[begin:end],
        rows.positions[begin:end],
    )


def _losses(weights: Weights, shape: Shape, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """Returns the loss of each target, and how much it counts."""
    scores = logits(weights, shape, rows.tokens, rows.segments, rows.positions)
    targets = rows.tokens[:, 1:]
    losses = optax.softmax_cross_entropy_with_integer_labels(scores[:, :-1], targets)
    return losses, rows.weights[:, 1:]


def _mean_loss(weights: Weights, shape: Shape, rows: Rows) -> jax.Array:
    losses, counts = _losses(weights, shape, rows)
    return jnp.sum(losses * counts) / jnp.sum(counts)


jax.tree_util.register_dataclass(Rows, ["tokens", "weights", "segments", "positions"], [])


def held_out_rows(tokenizer: Tokenizer) -> dict[str, Rows]:
    """Rows of each kind that no step trains, and the held-out paraphrases."""

    def endless(make: object, draw: random.Random) -> Iterator[Document]:
        while True:
            yield make(draw)  # type: ignore[operator]

    rows = {}
    for share in shares(SHORT.most_filler):
        draw = random.Random(_HELD_OUT_SEED)
        source = endless(share.make, draw)
        rows[share.name] = pack(source, tokenizer, num_rows=8, length=256, jumps=None)
    paraphrases = itertools.cycle(paraphrase_documents())
    rows["paraphrases"] = pack(paraphrases, tokenizer, num_rows=8, length=256, jumps=None)
    return rows


class Run:
    """One training run with its files: tokenizer, checkpoint, log."""

    def __init__(self, folder: Path, seed: int, steps: int) -> None:
        self._folder = folder
        self._seed = seed
        self._steps = steps
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer = self._load_tokenizer()
        self._shape = Shape(vocabulary=len(self._tokenizer.tokens))
        schedule = optax.join_schedules(
            [
                optax.linear_schedule(0.0, 1.0, _WARM_UP),
                optax.constant_schedule(1.0),
                optax.linear_schedule(1.0, 0.0, int(steps * _DECAY_SHARE)),
            ],
            [_WARM_UP, steps - int(steps * _DECAY_SHARE)],
        )
        self._optimizer = make_optimizer(schedule, matrix_rate=0.01, other_rate=0.003)
        self._weights = make_weights(self._shape, seed)
        self._state = self._optimizer.init(self._weights)
        self._step = 0
        self._seconds = 0.0

    def train(self) -> None:
        """Trains until the last step, going on from the checkpoint if there is one."""
        self._load()
        held_out = held_out_rows(self._tokenizer)
        update = jax.jit(self._update, donate_argnums=(0, 1))
        began = saved = time.monotonic()
        before = self._seconds
        for rows in batches(self._seed, self._step, self._steps, self._tokenizer):
            self._weights, self._state, loss = update(self._weights, self._state, rows)
            self._step += 1
            if self._step % _CHUNK:
                continue
            mean = float(loss)  # waits for the step, so that the time below is true
            self._seconds = before + time.monotonic() - began
            print(f"step {self._step} loss {mean:.3f} seconds {self._seconds:.0f}", flush=True)
            if time.monotonic() - saved > _SAVE_S:
                self._save(held_out)
                saved = time.monotonic()
        self._save(held_out)

    def _update(
        self, weights: Weights, state: optax.OptState, rows: Rows
    ) -> tuple[Weights, optax.OptState, jax.Array]:
        loss, gradient = jax.value_and_grad(_mean_loss)(weights, self._shape, rows)
        updates, state = self._optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state, loss

    @functools.cached_property
    def _scores(self) -> Callable[[Weights, Rows], jax.Array]:
        return jax.jit(
            lambda weights, rows: logits(
                weights, self._shape, rows.tokens, rows.segments, rows.positions
            )
        )

    def _load_tokenizer(self) -> Tokenizer:
        path = self._folder / "tokenizer.json"
        if not path.exists():
            make_tokenizer(self._seed).save(path)
        return Tokenizer.load(path)

    def _save(self, held_out: dict[str, Rows]) -> None:
        leaves = jax.tree.leaves((self._weights, self._state))
        partial = self._folder / "partial.npz"
        np.savez(partial, *leaves)
        partial.replace(self._folder / "checkpoint.npz")
        measured = {name: self._measure(rows) for name, rows in held_out.items()}
        facts = {
            "seed": self._seed,
            "steps": self._steps,
            "step": self._step,
            "tokens": self._step * _STEP_TOKENS,
            "seconds": round(self._seconds),
            "held_out_loss": {name: round(loss, 4) for name, (loss, _) in measured.items()},
            "held_out_right": {name: round(right, 4) for name, (_, right) in measured.items()},
        }
        (self._folder / "facts.json").write_text(json.dumps(facts, indent=1))
        print(json.dumps(facts), flush=True)

    def _load(self) -> None:
        path = self._folder / "checkpoint.npz"
        if not path.exists():
            return
        leaves, tree = jax.tree.flatten((self._weights, self._state))
        with np.load(path) as saved:
            stored = [jnp.asarray(saved[f"arr_{rank}"]) for rank in range(len(leaves))]
        self._weights, self._state = jax.tree.unflatten(tree, stored)
        facts = json.loads((self._folder / "facts.json").read_text())
        self._step, self._seconds = facts["step"], facts["seconds"]

    def _measure(self, rows: Rows) -> tuple[float, float]:
        """Returns the loss over answers, and the share of their tokens that greedy gets right."""
        scores = self._scores(self._weights, rows)
        targets = rows.tokens[:, 1:]
        losses = optax.softmax_cross_entropy_with_integer_labels(scores[:, :-1], targets)
        counts = rows.weights[:, 1:] > _LEAST_ANSWER
        right = jnp.argmax(scores[:, :-1], -1) == targets
        total = jnp.sum(counts)
        return float(jnp.sum(losses * counts) / total), float(jnp.sum(right * counts) / total)


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run's files")
    parser.add_argument("--steps", type=int, default=800, help="a multiple of 50")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    Run(arguments.out, arguments.seed, arguments.steps).train()


if __name__ == "__main__":
    main()
