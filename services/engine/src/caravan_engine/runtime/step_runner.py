"""The middle verb: runs a plan on a backend and lets each sequence choose its token."""

import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.logprobs import Logprobs, RowLogprobs
from caravan_engine.domain.ports import Backend, BackendFailureError
from caravan_engine.domain.step import StepPlan, StepResult
from caravan_engine.domain.token_sampler import UnusableLogitsError


class StepRunner:
    """Owned by the decode thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def run(self, plan: StepPlan) -> StepResult:
        """Releases, shares, then computes and samples the chunks of a plan."""
        started = time.perf_counter()
        self._backend.release(plan.releases)
        self._backend.share(plan.prefixes)
        if not plan.chunks:
            return StepResult(plan)
        if plan.is_embedding:
            return self._embed(plan, started)
        try:
            rows = self._backend.decode(plan)
        except BackendFailureError as failure:
            return StepResult(plan, failure_code=failure.code)
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

    def _embed(self, plan: StepPlan, started: float) -> StepResult:
        try:
            rows = self._backend.embed(plan)
        except BackendFailureError as failure:
            return StepResult(plan, failure_code=failure.code)
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
