"""The middle verb: runs a plan on a backend and lets each sequence choose its token."""

import time

import numpy as np
import numpy.typing as npt

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
        try:
            rows = self._backend.decode(plan)
        except BackendFailureError as failure:
            return StepResult(plan, failure_code=failure.code)
        decoded = time.perf_counter()
        tokens, unusable = _choose(plan, rows)
        return StepResult(
            plan,
            tokens=tokens,
            unusable=unusable,
            decode_s=decoded - started,
            sample_s=time.perf_counter() - decoded,
        )


def _choose(plan: StepPlan, rows: npt.NDArray[np.float32]) -> tuple[dict[int, int], frozenset[int]]:
    tokens: dict[int, int] = {}
    unusable: set[int] = set()
    for row, (chunk, sampler) in zip(rows, plan.sampling(), strict=True):
        try:
            tokens[chunk.seq_id] = sampler.choose(row, chunk.end)
        except UnusableLogitsError:
            unusable.add(chunk.seq_id)
    return tokens, frozenset(unusable)
