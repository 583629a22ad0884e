"""Makes one vector of the vectors of an input's tokens, however they were divided into steps."""

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.model_facts import ModelFacts, Pooling


class Pooler:
    """Owned by the decode thread. Begins anew when position 0 comes again."""

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._pooled = np.zeros(0)

    def add(self, start: int, rows: npt.NDArray[np.float32]) -> None:
        """Takes the vectors of the tokens from position `start` on; they are copied."""
        match self._pooling:
            case Pooling.MEAN:
                total = rows.sum(axis=0, dtype=np.float64)
                self._pooled = total if start == 0 else self._pooled + total
            case Pooling.LAST:
                self._pooled = rows[-1].astype(np.float64)
            case _ if start == 0:
                self._pooled = rows[0].astype(np.float64)

    def vector(self) -> npt.NDArray[np.float32] | None:
        """Returns the vector at length 1; None if the model computed nothing usable."""
        length = np.linalg.norm(self._pooled)
        if not (np.isfinite(length) and length > 0):
            return None
        unit: npt.NDArray[np.float32] = (self._pooled / length).astype(np.float32)
        return unit


def pooling_of(facts: ModelFacts) -> Pooling | None:
    """Returns how a model's texts are pooled: as it says, else by their mean.

    None if they can't be: rerankers give no vector, and where tokens look ahead a text can't be
    computed in chunks.
    """
    looks_ahead = facts.metadata.get(f"{facts.architecture}.attention.causal") == "false"
    if facts.pooling is Pooling.RANK or looks_ahead:
        return None
    return facts.pooling if facts.pooling in (Pooling.CLS, Pooling.LAST) else Pooling.MEAN
