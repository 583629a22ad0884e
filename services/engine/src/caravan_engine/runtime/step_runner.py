"""The middle verb: runs a plan on a backend and lets each sequence choose its token."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.ports import Backend, BackendFailureError
from caravan_engine.domain.sampling.logprobs import Logprobs, RowLogprobs
from caravan_engine.domain.sampling.token_sampler import UnusableLogitsError
from caravan_engine.domain.step import StepPlan, StepResult
from caravan_engine.runtime.page_mover import Buffer, PageMover


class StepRunner:
    """Owned by the decode thread.

    Args:
        backend: Computes.
        checksum: Of a page's bytes; an image whose bytes have another one is not restored.
    """

    def __init__(self, backend: Backend, checksum: Callable[[Buffer], int]) -> None:
        self._backend = backend
        self._mover = PageMover(backend, checksum)

    def run(self, plan: StepPlan) -> StepResult:
        """Moves, then computes and samples the chunks of a plan.

        Nothing is computed when a page could not be restored.
        """
        moved = self._mover.run(plan.moves)
        images, times = tuple(moved.images), moved.times()
        if moved.failed_imports or not plan.chunks:
            failed = tuple(moved.failed_imports)
            return StepResult(plan, images=images, failed_imports=failed, move_times=times)
        compute = self._embed if plan.is_embedding else self._generate
        try:
            result = compute(plan)
        except BackendFailureError as failure:
            result = StepResult(plan, failure_code=failure.code)
        return replace(result, images=images, move_times=times)

    def _generate(self, plan: StepPlan) -> StepResult:
        started = time.perf_counter()
        rows = self._backend.decode(plan)
        decoded = time.perf_counter()
        choices = _choose(plan, rows)
        return StepResult(
            plan,
            tokens=choices.tokens,
            logprobs=choices.logprobs,
            unusable=frozenset(choices.unusable),
            decode_s=decoded - started,
            sample_s=time.perf_counter() - decoded,
        )

    def _embed(self, plan: StepPlan) -> StepResult:
        started = time.perf_counter()
        rows = self._backend.embed(plan)
        first = 0
        for chunk in plan.chunks:
            last = first + len(chunk.tokens)
            if chunk.pooler:
                chunk.pooler.add(chunk.start, rows[first:last])
            first = last
        return StepResult(plan, decode_s=time.perf_counter() - started)


@dataclass(slots=True)
class _Choices:
    tokens: dict[int, int] = field(default_factory=dict)
    logprobs: dict[int, Logprobs] = field(default_factory=dict)
    unusable: set[int] = field(default_factory=set)


def _choose(plan: StepPlan, rows: npt.NDArray[np.float32]) -> _Choices:
    choices = _Choices()
    for row, (chunk, sampler) in zip(rows, plan.sampling(), strict=True):
        num_top = chunk.num_top_logprobs
        measured = None if num_top is None else RowLogprobs(row, num_top)  # sampling changes it
        try:
            token = choices.tokens[chunk.seq_id] = sampler.choose(row, chunk.end)
        except UnusableLogitsError:
            choices.unusable.add(chunk.seq_id)
            continue
        if measured:
            choices.logprobs[chunk.seq_id] = measured.of(token)
    return choices
