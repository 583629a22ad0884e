"""Chooses the next token of one sequence from a row of logits."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.penalties import PenaltyWindow
from caravan_engine.domain.ports import CandidateFilter
from caravan_engine.domain.sampling import SamplingOptions, draw_key, keyed_uniform


class UnusableLogitsError(Exception):
    """The model computed NaN for a sequence: nothing sensible can be chosen."""


class TokenSampler:
    """Bias, penalties, candidates, draw; holds nothing that its history doesn't determine.

    Built outside the decode thread, then owned by it.

    Args:
        options: What the request says.
        seed: Start of the draws.
        choice_index: Which of the request's choices.
        candidates: llama.cpp's filters for `options`; None when `options` are greedy.
        history: The prompt, and whatever else came before the first token to choose.
        banned: Tokens that are never chosen (the end-of-generation tokens with `ignore_eos`).
    """

    def __init__(
        self,
        options: SamplingOptions,
        *,
        seed: int,
        choice_index: int = 0,
        candidates: CandidateFilter | None,
        history: Sequence[int],
        banned: Collection[int] = (),
    ) -> None:
        biases = {**options.logit_bias, **dict.fromkeys(banned, -np.inf)}
        self._key = draw_key(seed, choice_index)
        self._candidates = candidates
        self._biased_ids = np.fromiter(biases.keys(), np.int64, len(biases))
        self._biases = np.fromiter(biases.values(), np.float32, len(biases))
        self._penalties = PenaltyWindow(options) if options.has_penalties else None
        if self._penalties:
            self._penalties.accept(history[-options.penalty_last_n :])

    def accept(self, token: int) -> None:
        """Takes a token into the history."""
        if self._penalties:
            self._penalties.accept((token,))

    def choose(self, logits: npt.NDArray[np.float32], position: int) -> int:
        """Returns the token for `position`; `logits` (vocabulary,) are changed in place.

        Raises:
            UnusableLogitsError: if they hold NaN.
        """
        if self._biases.size:
            logits[self._biased_ids] += self._biases
        if self._penalties:
            self._penalties.apply(logits)
        if self._candidates is None:
            return _best(logits)
        return self._draw(*self._candidates.narrow(logits), position)

    def _draw(
        self, ids: npt.NDArray[np.int32], logits: npt.NDArray[np.float32], position: int
    ) -> int:
        weights = np.exp(logits - logits[0], dtype=np.float64)
        reached = weights.cumsum()
        total = reached[-1]
        if not total > 0:
            raise UnusableLogitsError
        target = keyed_uniform(self._key, position) * total
        return int(ids[reached.searchsorted(target, side="right")])


def _best(logits: npt.NDArray[np.float32]) -> int:
    best = int(logits.argmax())
    if np.isnan(logits[best]):  # numpy takes the first NaN for the maximum
        raise UnusableLogitsError
    return best
