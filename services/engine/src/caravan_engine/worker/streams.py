"""Puts together what calls ask of streams: those of this worker, and those of the one before it."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from caravan_engine.control.settings import WorkerSettings
from caravan_engine.domain.recovery.live_requests import LiveRequest
from caravan_engine.rpc.request_journaling import NoJournal, RunJournal
from caravan_engine.rpc.stream_keeping import StreamKeeping
from caravan_engine.rpc.stream_recovery import StreamRecovery
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.handover_arrival import Prepare
from caravan_engine.runtime.request_journal import RequestJournal
from caravan_engine.runtime.retained_streams import RetainedStreams
from caravan_engine.worker.journal import open_journal
from caravan_engine.worker.retention import open_retained_streams
from caravan_engine.worker.threads import in_thread
from caravan_rpckit.tls import TlsIdentity


async def open_streams(
    settings: WorkerSettings,
    engine: EngineLoop,
    prepare: Prepare,
    tls: TlsIdentity,
    resources: AsyncExitStack,
) -> tuple[StreamRecovery, RequestJournal | None, RetainedStreams]:
    """Opens the journal, and gives up after a time what nobody asked for of what is in it."""
    recovered: Sequence[LiveRequest] = ()
    journal = None
    if opened := await in_thread(lambda: open_journal(settings)):
        journal, recovered = opened.journal, opened.recovered
        resources.push_async_callback(in_thread, journal.close)
    retained = open_retained_streams(settings, tls, resources)
    keeping = StreamKeeping(
        engine,
        retained,
        RunJournal(journal) if journal else NoJournal(),
        prepare,
        model=settings.model,
        digest=settings.model_digest,
    )
    streams = StreamRecovery(keeping, journal, recovered, digest=settings.model_digest)
    timer = asyncio.get_running_loop().call_later(settings.retention.time_s, streams.give_up)
    resources.callback(timer.cancel)
    return streams, journal, retained
