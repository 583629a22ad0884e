"""Log-probabilities of a row of logits, as the model gave it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Logprobs:
    """How probable a token was, and the best ones beside it, as pairs of token and logarithm."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


class RowLogprobs:
    """The log-softmax of one row; to be made before anything changes the row.

    Args:
        logits: # (vocabulary,), copied.
        num_top: How many of the best to name.
    """

    def __init__(self, logits: npt.NDArray[np.float32], num_top: int) -> None:
        self._logits = logits.copy()
        best = float(logits.max())
        self._normalizer = best + float(np.log(np.exp(logits - best).sum(dtype=np.float64)))
        self._num_top = min(num_top, logits.size)

    def of(self, token: int) -> Logprobs:
        """Returns what is to be said of a token that was chosen from the row."""
        return Logprobs(self._of(token), tuple((each, self._of(each)) for each in self._best()))

    def _of(self, token: int) -> float:
        return float(self._logits[token]) - self._normalizer

    def _best(self) -> list[int]:
        """Returns the most probable tokens, best first, the lower id first of equals."""
        if self._num_top == 0:
            return []
        found = np.argpartition(self._logits, -self._num_top)[-self._num_top :]
        order = np.lexsort((found, -self._logits[found]))
        best: list[int] = found[order].tolist()
        return best
