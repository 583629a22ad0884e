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
from corpus.recall import recall_document
from model import Shape, Weights, hidden, make_weights, read_out
from optimizer import make_optimizer
from packing import Rows, pack
from tokenizer import Tokenizer, count_words, learn

VOCABULARY = 2048
_TOKENIZER_DOCUMENTS = 20_000
_CHUNK = 50
_STEP_TOKENS = 2048
_STEP_TARGETS = 768
"""How many of them are predicted: those that count most, which leaves out what a user says."""
_WARM_UP = 100
_DECAY_SHARE = 0.3
_SAVE_S = 90.0
PLATEAU = "plateau"
"""The folder of the state before the rate falls, from which a longer run can go on."""
_HELD_OUT_SEED = "held out"


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with rows of one length."""

    length: int
    most_filler: int
    jumps: bool


NEAR = Phase(length=256, most_filler=6, jumps=False)
"""Recall over short distances, until it is found at all."""
SHORT = Phase(length=256, most_filler=14, jumps=True)
LONGER = Phase(length=512, most_filler=45, jumps=True)
LONGEST = Phase(length=1024, most_filler=95, jumps=False)
_NEAR_STEPS = 150
_SHORT_STEPS = 400
_REST = (SHORT, LONGER, SHORT, LONGEST)
"""Taken in turns, a chunk each."""


def make_tokenizer(seed: int) -> Tokenizer:
    """Learns the tokenizer from a sample of the corpus."""
    draw = random.Random(f"{seed}/tokenizer")
    stream = documents(draw, shares(NEAR.most_filler))
    sample = (next(stream) for _ in range(_TOKENIZER_DOCUMENTS))
    words = count_words(span.text for text in sample for span in text if not span.special)
    return learn(words, VOCABULARY)


def phase_of(step: int) -> Phase:
    """Returns the phase of a step, which doesn't depend on how many there will be."""
    if step < _NEAR_STEPS:
        return NEAR
    if step < _SHORT_STEPS:
        return SHORT
    return _REST[step // _CHUNK % len(_REST)]


def decay_begins(steps: int) -> int:
    """Returns the step, at the beginning of a chunk, from which the rate falls."""
    return steps - int(steps * _DECAY_SHARE) // _CHUNK * _CHUNK


def chunk_of_rows(seed: int, step: int, tokenizer: Tokenizer) -> Rows:
    """Makes the rows of the `_CHUNK` steps that begin at `step`; depends on nothing before."""
    phase = phase_of(step)
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
        rows = chunk_of_rows(seed, step, tokenizer)
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


def _mean_loss(weights: Weights, shape: Shape, rows: Rows) -> jax.Array:
    states = hidden(weights, shape, rows.tokens, rows.segments, rows.positions)
    states = states[:, :-1].reshape(-1, shape.width)
    counts, places = jax.lax.top_k(rows.weights[:, 1:].reshape(-1), _STEP_TARGETS)
    targets = rows.tokens[:, 1:].reshape(-1)[places]
    scores = read_out(weights, states[places])
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, targets)
    return jnp.sum(losses * counts) / jnp.sum(counts)


jax.tree_util.register_dataclass(Rows, ["tokens", "weights", "segments", "positions"], [])


def held_out_rows(tokenizer: Tokenizer) -> dict[str, Rows]:
    """Rows of each kind that no step trains, far recall, and the held-out paraphrases."""

    def endless(make: object, draw: random.Random) -> Iterator[Document]:
        while True:
            yield make(draw)  # type: ignore[operator]

    rows = {}
    for share in shares(SHORT.most_filler):
        draw = random.Random(_HELD_OUT_SEED)
        source = endless(share.make, draw)
        rows[share.name] = pack(source, tokenizer, num_rows=8, length=256, jumps=None)
    far = endless(lambda draw: recall_document(draw, LONGEST.most_filler), random.Random(1))
    rows["far recall"] = pack(far, tokenizer, num_rows=4, length=1024, jumps=None)
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
                optax.linear_schedule(1.0, 0.0, steps - decay_begins(steps)),
            ],
            [_WARM_UP, decay_begins(steps)],
        )
        self._optimizer = make_optimizer(schedule, matrix_rate=0.01, other_rate=0.003)
        self._weights = make_weights(self._shape, seed)
        self._state = self._optimizer.init(self._weights)
        self._step = 0
        self._seconds = 0.0
        self._cpu_seconds = 0.0

    def train(self) -> None:
        """Trains until the last step, going on from the checkpoint if there is one."""
        self._load()
        held_out = held_out_rows(self._tokenizer)
        update = jax.jit(self._update, donate_argnums=(0, 1))
        began = saved = time.monotonic()
        before, cpu_before = self._seconds, self._cpu_seconds - time.process_time()
        for rows in batches(self._seed, self._step, self._steps, self._tokenizer):
            self._weights, self._state, loss = update(self._weights, self._state, rows)
            self._step += 1
            if self._step % _CHUNK:
                continue
            mean = float(loss)  # waits for the step, so that the time below is true
            self._seconds = before + time.monotonic() - began
            self._cpu_seconds = cpu_before + time.process_time()
            print(f"step {self._step} loss {mean:.3f} seconds {self._seconds:.0f}", flush=True)
            if self._step == decay_begins(self._steps):
                self._save(held_out, self._folder / PLATEAU)
            if time.monotonic() - saved > _SAVE_S:
                self._save(held_out, self._folder)
                saved = time.monotonic()
        self._save(held_out, self._folder)

    def _update(
        self, weights: Weights, state: optax.OptState, rows: Rows
    ) -> tuple[Weights, optax.OptState, jax.Array]:
        loss, gradient = jax.value_and_grad(_mean_loss)(weights, self._shape, rows)
        updates, state = self._optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state, loss

    @functools.cached_property
    def _scores(self) -> Callable[[Weights, Rows], jax.Array]:
        return jax.jit(
            lambda weights, rows: read_out(
                weights, hidden(weights, self._shape, rows.tokens, rows.segments, rows.positions)
            )
        )

    def _load_tokenizer(self) -> Tokenizer:
        path = self._folder / "tokenizer.json"
        if not path.exists():
            make_tokenizer(self._seed).save(path)
        return Tokenizer.load(path)

    def _save(self, held_out: dict[str, Rows], folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._tokenizer.save(folder / "tokenizer.json")
        leaves = jax.tree.leaves((self._weights, self._state))
        partial = folder / "partial.npz"
        np.savez(partial, *leaves)
        partial.replace(folder / "checkpoint.npz")
        measured = {name: self._measure(rows) for name, rows in held_out.items()}
        facts = {
            "seed": self._seed,
            "steps": self._steps,
            "step": self._step,
            "tokens": self._step * _STEP_TOKENS,
            "seconds": round(self._seconds),
            "cpu_seconds": round(self._cpu_seconds),
            "held_out_loss": {name: round(loss, 4) for name, (loss, _) in measured.items()},
            "held_out_right": {name: round(right, 4) for name, (_, right) in measured.items()},
        }
        (folder / "facts.json").write_text(json.dumps(facts, indent=1))
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
        limit = decay_begins(min(self._steps, facts["steps"]))
        if facts["steps"] != self._steps and facts["step"] > limit:
            raise SystemExit(f"{path} is from where the rate falls already: copy {PLATEAU}/ of it")
        self._step, self._seconds = facts["step"], facts["seconds"]
        self._cpu_seconds = facts["cpu_seconds"]

    def _measure(self, rows: Rows) -> tuple[float, float]:
        """Returns the loss and greedy's share of right tokens, over those that count most."""
        scores = self._scores(self._weights, rows)
        targets = rows.tokens[:, 1:]
        losses = optax.softmax_cross_entropy_with_integer_labels(scores[:, :-1], targets)
        counts = rows.weights[:, 1:] == rows.weights.max()
        right = jnp.argmax(scores[:, :-1], -1) == targets
        total = jnp.sum(counts)
        return float(jnp.sum(losses * counts) / total), float(jnp.sum(right * counts) / total)


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run's files")
    parser.add_argument("--steps", type=int, default=1950, help="a multiple of 50")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    Run(arguments.out, arguments.seed, arguments.steps).train()


if __name__ == "__main__":
    main()
