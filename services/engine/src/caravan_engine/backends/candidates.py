"""The best logits of a row, without sorting it."""

import numpy as np
import numpy.typing as npt

_BLOCKS_PER_CANDIDATE = 4


class TopLogits:
    """Finds a superset of a row's k best logits, usually only a little larger.

    The obvious `np.partition` of the row takes 160 µs for 32k logits. But at least k logits reach
    the k-th best of the maxima of disjoint blocks, so that is a lower bound for the k-th best
    logit; finding it and comparing takes 15 µs.

    Args:
        vocabulary_size: Length of the rows.
        num_candidates: k.
    """

    def __init__(self, vocabulary_size: int, num_candidates: int) -> None:
        num_wanted = min(num_candidates, vocabulary_size)
        depth = max(1, vocabulary_size // (_BLOCKS_PER_CANDIDATE * num_wanted))
        self._num_blocks = vocabulary_size // depth
        self._depth = depth
        self._rank = self._num_blocks - num_wanted

    def ids(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        """Returns the ids of at least the k best of `logits` (vocabulary_size,), ascending."""
        blocks = logits[: self._depth * self._num_blocks].reshape(self._depth, self._num_blocks)
        maxima = blocks.max(axis=0)
        maxima.partition(self._rank)
        found: npt.NDArray[np.intp] = (logits >= maxima[self._rank]).nonzero()[0]
        return found
