"""The arrays of a llama.cpp batch, allocated once and filled through numpy."""

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.step import StepPlan


class BatchArrays:
    """A plan's tokens as llama.cpp reads them. Owned by the decode thread.

    llama.cpp wants a pointer to the sequence ids of each token; as each token has exactly one, the
    pointers never change: the i-th points to the i-th element of `seq_ids`.

    Args:
        capacity: Most tokens in a batch (n_batch).
    """

    def __init__(self, capacity: int) -> None:
        self.tokens = np.zeros(capacity, np.int32)
        self.positions = np.zeros(capacity, np.int32)
        self.seq_ids = np.zeros(capacity, np.int32)
        self.num_seq_ids = np.ones(capacity, np.int32)
        self.outputs = np.zeros(capacity, np.int8)
        self.seq_id_pointers = _element_addresses(self.seq_ids)

    def fill(self, plan: StepPlan) -> int:
        """Writes a plan's chunks and returns the number of tokens.

        Raises:
            ValueError: if there are more than the capacity, which would abort the process.
        """
        num_tokens = plan.num_tokens
        if num_tokens > len(self.tokens):
            raise ValueError(f"{num_tokens} tokens in a batch of {len(self.tokens)}")
        tokens: list[int] = []
        positions: list[int] = []
        seq_ids: list[int] = []
        sampling: list[int] = []
        for chunk in plan.chunks:
            tokens += chunk.tokens
            positions += range(chunk.start, chunk.end)
            seq_ids += [chunk.seq_id] * len(chunk.tokens)
            if chunk.pooler is not None:
                sampling += range(len(tokens) - len(chunk.tokens), len(tokens))
            elif chunk.sampler is not None:
                sampling.append(len(tokens) - 1)
        self.tokens[:num_tokens] = tokens
        self.positions[:num_tokens] = positions
        self.seq_ids[:num_tokens] = seq_ids
        self.outputs[:num_tokens] = 0
        self.outputs[sampling] = 1
        return num_tokens


def _element_addresses(array: npt.NDArray[np.int32]) -> npt.NDArray[np.uintp]:
    return np.arange(array.size, dtype=np.uintp) * array.itemsize + array.ctypes.data
