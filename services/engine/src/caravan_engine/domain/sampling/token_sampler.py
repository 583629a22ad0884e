"""Chooses the next token of one sequence from a row of logits."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.ports import CandidateFilter
from caravan_engine.domain.sampling.mirostat import Mirostat
from caravan_engine.domain.sampling.options import SamplingOptions, draw_key, keyed_uniform
from caravan_engine.domain.sampling.penalties import PenaltyWindow
from caravan_engine.domain.sampling.repetitions import RepetitionWindow

_DRAW, _EXCLUSION = 0, 1  # uses of keyed draws


class UnusableLogitsError(Exception):
    """The model computed NaN for a sequence: nothing sensible can be chosen."""


class TokenSampler:
    """Bias, penalties, candidates, draw.

    Holds nothing that its history doesn't determine, but for the mu of `mirostat`. Built outside
    the decode thread, then owned by it.

    Args:
        options: What the request says.
        seed: Start of the draws.
        choice_index: Which of the request's choices.
        candidates: llama.cpp's filters for `options`; None when `options` are greedy.
        history: The prompt, and whatever else came before the first token to choose.
        banned: Tokens that are never chosen (the end-of-generation tokens with `ignore_eos`).
        pieces: The bytes of each token of the vocabulary, for DRY.
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
        pieces: Sequence[bytes] = (),
    ) -> None:
        biases = {**options.logit_bias, **dict.fromkeys(banned, -np.inf)}
        self._key = draw_key(seed, choice_index)
        self._candidates = candidates
        self._biased_ids = np.fromiter(biases.keys(), np.int64, len(biases))
        self._biases = np.fromiter(biases.values(), np.float32, len(biases))
        self._exclusion_rate = options.xtc.probability if options.has_xtc else 0.0
        self.mirostat = Mirostat(options.mirostat) if options.mirostat else None
        self._windows: list[PenaltyWindow | RepetitionWindow] = []
        if options.has_penalties:
            penalties = PenaltyWindow(options)
            penalties.accept(history[-options.penalty_last_n :])
            self._windows.append(penalties)
        if options.has_dry:
            repetitions = RepetitionWindow(options.dry, pieces)
            repetitions.begin(history)
            self._windows.append(repetitions)

    def accept(self, token: int) -> None:
        """Takes a token into the history."""
        for window in self._windows:
            window.accept((token,))

    def choose(self, logits: npt.NDArray[np.float32], position: int) -> int:
        """Returns the token for `position`; `logits` (vocabulary,) are changed in place.

        Raises:
            UnusableLogitsError: if they hold NaN.
        """
        if self._biases.size:
            logits[self._biased_ids] += self._biases
        for window in self._windows:
            window.apply(logits)
        if self._candidates is None:
            return _best(logits)
        ids, kept = self._candidates.narrow(logits, excludes_top=self._excludes_top(position))
        return int(ids[self._draw(kept, keyed_uniform(self._key, position, _DRAW))])

    def _excludes_top(self, position: int) -> bool:
        if not self._exclusion_rate:
            return False
        return keyed_uniform(self._key, position, _EXCLUSION) < self._exclusion_rate

    def _draw(self, logits: npt.NDArray[np.float32], uniform: float) -> int:
        place = self.mirostat.choose(logits, uniform) if self.mirostat else _place(logits, uniform)
        if place is None:
            raise UnusableLogitsError
        return place


def _place(logits: npt.NDArray[np.float32], uniform: float) -> int | None:
    weights = np.exp(logits - logits[0], dtype=np.float64)
    reached = weights.cumsum()
    total = reached[-1]
    if not total > 0:
        return None
    return int(reached.searchsorted(uniform * total, side="right"))


def _best(logits: npt.NDArray[np.float32]) -> int:
    best = int(logits.argmax())
    if np.isnan(logits[best]):  # numpy takes the first NaN for the maximum
        raise UnusableLogitsError
    return best
