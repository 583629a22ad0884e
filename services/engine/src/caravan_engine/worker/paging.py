"""How a worker's settings and its model decide how memory is managed."""

from caravan_engine.backends.llama_cpp import LlamaCppBackend
from caravan_engine.config import IdlePages
from caravan_engine.control.settings import WorkerSettings
from caravan_engine.domain.paging.kv_setup import KvOptions
from caravan_engine.domain.step import Chunk, StepPlan


def kv_options(
    settings: WorkerSettings, backend: LlamaCppBackend, bytes_per_token: int
) -> KvOptions:
    """Returns the options for a loaded model."""
    kv = settings.kv
    return KvOptions(
        num_seats=settings.context.seats,
        num_cells=backend.facts.num_cells,
        model_digest=settings.model_digest,
        page_size=kv.page_size,
        can_cut=backend.can_cut,
        coalesces=kv.coalesce,
        host_budget_bytes=settings.host_page_bytes,
        bytes_per_token=bytes_per_token,
        num_shelf_ids=kv.resident_sequences,
        cells_cost_time=not _keeps_in_cells(kv.idle_pages, backend),
        start_watermark=kv.start_watermark,
        stop_watermark=kv.stop_watermark,
        checkpoints=kv.checkpoints,
    )


def warm_up(backend: LlamaCppBackend) -> int:
    """Computes two tokens, so that the first request doesn't pay for what is set up on demand.

    Returns:
        The bytes by which the image of a page grows with each token.
    """
    token = min(set(range(backend.vocabulary.size)) - backend.vocabulary.control_tokens)
    sizes = []
    for position in range(2):
        backend.decode(StepPlan(chunks=(Chunk(0, position, (token,), None),)))
        sizes.append(len(backend.export_page(0, 0, position + 1)))
    backend.release(0)
    return max(1, sizes[1] - sizes[0])


def _keeps_in_cells(idle_pages: IdlePages, backend: LlamaCppBackend) -> bool:
    if idle_pages is IdlePages.AUTO:
        return backend.has_device_memory
    return idle_pages is IdlePages.CELLS
