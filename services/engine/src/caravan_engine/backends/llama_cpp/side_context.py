"""A small context beside the main one, in which new prompts see nobody else's cells."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from caravan_engine.backends.llama_cpp.context import Context
from caravan_engine.backends.llama_cpp.loading import LoadLog
from caravan_engine.backends.llama_cpp.settings import LlamaCppSettings
from caravan_engine.domain.memory_plan import MAX_SIDE_SEQUENCES
from caravan_engine.domain.ports import BackendFailureError
from caravan_engine.domain.scheduling.side_limits import SideLimits
from caravan_engine.domain.step import StepPlan

_NO_CELLS = 1  # as llama.cpp says it


class SideContext:
    """Computes beginnings of prompts and moves what came of them to the main context.

    ggml's attention on a CPU reads the mask of each token of a batch for every used cell, in each
    head and layer, also where all of it says that the cell isn't to be seen. For 256 tokens beside
    2,000 cells of others that is a twentieth of the time, and it grows with the cells. Here there
    are no others, and the memory is the same, byte for byte, as in an empty main context.

    Owned by the decode thread.

    Args:
        settings: Of the main context.
        model: Whose weights both use.
        main: Where the memory of sequences goes.
        vocabulary_size: Of the model.
        log: What llama.cpp says while the context is made.

    Raises:
        ModelLoadFailedError: if llama.cpp refuses; the model is freed.
    """

    def __init__(
        self,
        settings: LlamaCppSettings,
        model: int,
        main: Context,
        vocabulary_size: int,
        log: LoadLog,
    ) -> None:
        num_tokens = settings.batch_tokens
        num_sequences = min(settings.num_seats, MAX_SIDE_SEQUENCES)
        own = replace(settings, num_cells=num_tokens, num_seats=num_sequences, num_shelf_ids=0)
        self.limits = SideLimits(num_tokens, num_sequences)
        self._main = main
        self._context = Context(own, model, vocabulary_size=vocabulary_size, log=log)
        self.share_cores, self.close = self._context.share_cores, self._context.close

    def decode(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`."""
        chunks = (replace(chunk, seq_id=at) for at, chunk in enumerate(plan.chunks))
        try:
            rows = self._context.decode(StepPlan(chunks=tuple(chunks)))
            for at, chunk in enumerate(plan.chunks):
                data = self._context.export_sequence(at)
                if not self._main.import_sequence(data, chunk.seq_id):
                    raise BackendFailureError(_NO_CELLS)
            return rows
        finally:
            self._context.clear(zeroes=False)

    def wipe(self) -> None:
        """Zeroes what prompts left behind."""
        self._context.clear(zeroes=True)
