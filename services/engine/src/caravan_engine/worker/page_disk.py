"""Makes a worker's disk tier of its settings, and what looks there and elsewhere for pages."""

import asyncio
from collections.abc import Callable
from functools import partial

from caravan_engine.config import DISK_QUEUE_BYTES
from caravan_engine.control.settings import WorkerSettings
from caravan_engine.domain.paging.page_image import root_key
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.handover_arrival import HandoverArrival, Prepare, take_nothing
from caravan_engine.runtime.page_adoption import PageAdoption, prepare_nothing
from caravan_engine.storage.disk_pages import DiskPages, DiskSettings
from caravan_engine.storage.page_files import Codec, PageIdentity
from caravan_engine.worker.handover import Handover
from caravan_engine.worker.threads import in_thread

_LOOK_INTERVAL_S = 0.5


def open_page_disk(
    settings: WorkerSettings, layout: bytes, notify: Callable[[], None]
) -> DiskPages | None:
    """Returns the tier, or None when there is to be none. Blocks while it looks at old pages.

    Args:
        settings: of the worker.
        layout: whatever of the model and the backend decides what a page's bytes mean.
        notify: called by any thread when the tier has news.
    """
    kv, context = settings.kv, settings.context
    if not kv.disk_budget_bytes:
        return None
    return DiskPages(
        DiskSettings(
            directory=settings.page_directory,
            budget_bytes=kv.disk_budget_bytes,
            codec=Codec[kv.disk_compression.name],
            num_readers=kv.prefetch_threads,
            reads_ahead=kv.async_prefetch,
            write_queue_bytes=DISK_QUEUE_BYTES,
        ),
        PageIdentity(
            model_digest=settings.model_digest,
            layout=layout,
            key_type=context.key_type.value,
            value_type=context.value_type.value,
            page_size=kv.page_size,
        ),
        notify,
    )


async def take_over(disk: DiskPages) -> None:
    """Returns when the tier has its folder, which the worker may have that this one replaces."""
    is_there = await in_thread(disk.take_over)
    while not is_there:
        await asyncio.sleep(_LOOK_INTERVAL_S)
        is_there = await in_thread(disk.take_over)


def page_arrival(
    settings: WorkerSettings, engine: EngineLoop, disk: DiskPages | None, handover: Handover | None
) -> HandoverArrival:
    """Returns what gets the pages of a request that another worker began.

    What a drained worker left goes before what is on disk: it is all that there was.
    """
    otherwise: Prepare = prepare_nothing
    if disk is not None:
        root_of = partial(root_key, settings.model_digest)
        page_size = settings.kv.page_size
        otherwise = PageAdoption(disk.adopt, root_of=root_of, page_size=page_size).prepare
    take = take_nothing if handover is None else handover.take
    return HandoverArrival(take, engine.take_in, otherwise)
