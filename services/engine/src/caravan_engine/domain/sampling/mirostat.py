"""Mirostat 2: keeps the surprise of a text at a level, by cutting off what surprises too much."""

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.sampling.options import MirostatOptions


class Mirostat:
    """Owned by the decode thread.

    `mu`, the most surprise allowed now (in bits), is the only state of sampling that a history
    doesn't determine; whoever stores a sequence stores it too.

    Source: Basu et al., Mirostat (2020), version 2 of its reference implementation, with the
    details of llama.cpp: mu begins at twice tau, and the surprise is that among the tokens kept.
    """

    def __init__(self, options: MirostatOptions, mu: float | None = None) -> None:
        self._tau = options.tau
        self._eta = options.eta
        self.mu = 2 * options.tau if mu is None else mu

    def choose(self, logits: npt.NDArray[np.float32], uniform: float) -> int | None:
        """Returns the place of the chosen candidate and moves `mu`; None if logits are NaN.

        Args:
            logits: # (num_candidates,) best first.
            uniform: The draw, in [0, 1).
        """
        weights = np.exp(logits - logits[0], dtype=np.float64)
        total = weights.sum()
        if not total > 0:
            return None
        probabilities = weights / total
        num_kept = max(1, int((probabilities >= 2.0**-self.mu).sum()))
        reached = probabilities[:num_kept].cumsum()
        place = int(reached.searchsorted(uniform * reached[-1], side="right"))
        surprise = -float(np.log2(probabilities[place] / reached[-1]))
        self.mu -= self._eta * (surprise - self._tau)
        return place
