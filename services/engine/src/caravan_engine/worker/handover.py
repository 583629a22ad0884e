"""A worker's part in handing over: leaves pages when it is drained, takes what others left."""

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from caravan_engine.control.settings import WorkerSettings
from caravan_engine.domain.paging.page_image import PageImage, root_key
from caravan_engine.domain.request import GenerationRequest, QueuedRequest
from caravan_engine.runtime.page_io import JobThreads
from caravan_engine.storage.handover_folder import (
    HandoverFolder,
    handover_directory,
    handover_name,
)
from caravan_engine.storage.page_files import Codec, PageIdentity, PagePacker
from caravan_engine.worker.threads import in_thread

_log = logging.getLogger(__name__)

_WHOLE_SEQUENCE = 2**31


class Handover:
    """Usable from any thread.

    Args:
        folder: Where pages are left.
        model_digest: Of the model that computed them.
    """

    def __init__(self, folder: HandoverFolder, model_digest: str) -> None:
        self._folder = folder
        self._model_digest = model_digest
        self._writer = JobThreads("handover")

    def leave(self, request: QueuedRequest, images: Sequence[PageImage]) -> Future[None]:
        """Leaves a request's pages; see `HandingOver`."""
        done: Future[None] = Future()
        root = self._root(request.client.tenant)
        name = handover_name(root, request.request_id)

        def put() -> None:
            try:
                self._folder.put(name, images)
            finally:  # without its pages it goes on all the same
                done.set_result(None)

        if not images or not self._writer.submit(put):
            done.set_result(None)
        return done

    async def take(self, request: GenerationRequest) -> list[PageImage]:
        """Takes what another worker left of a request; see `HandoverArrival`."""
        root = self._root(request.client.tenant)
        name = handover_name(root, request.request_id)
        return await in_thread(partial(self._folder.take, name, root))

    async def forget(self, tenant: str) -> None:
        """Erases what lies there of a tenant."""
        await in_thread(partial(self._folder.erase, self._root(tenant)))

    def close(self) -> None:
        """Ends the thread after what it was told."""
        self._writer.close(finish=True)

    def _root(self, tenant: str) -> bytes:
        return root_key(self._model_digest, tenant)


def open_handover(
    settings: WorkerSettings, layout: bytes, *, can_cut: bool, cell_bytes: int
) -> Handover | None:
    """Returns the worker's part, or None where nothing can be handed over.

    Args:
        settings: of the worker.
        layout: whatever of the model and the backend decides what a page's bytes mean.
        can_cut: whether memory is kept by pages; else by whole sequences.
        cell_bytes: what the images of all cells take.
    """
    directory = handover_directory(settings.handover, settings.home)
    if directory is None:
        return None
    is_private = settings.handover.directory is None
    try:
        if not is_private:  # the host makes the other one when there is something to leave
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        extra = {"directory": str(directory), "detail": error.strerror or str(error)}
        _log.warning("folder of pages can't be used: nothing is handed over", extra=extra)
        return None
    identity = PageIdentity(
        model_digest=settings.model_digest,
        layout=layout,
        key_type=settings.context.key_type.value,
        value_type=settings.context.value_type.value,
        page_size=settings.kv.page_size if can_cut else _WHOLE_SEQUENCE,
    )
    budget_bytes = settings.handover.budget_bytes
    folder = HandoverFolder(
        directory,
        PagePacker(identity, Codec.NONE),
        identity,
        cell_bytes if budget_bytes is None else budget_bytes,
        is_private=is_private,
    )
    return Handover(folder, settings.model_digest)
