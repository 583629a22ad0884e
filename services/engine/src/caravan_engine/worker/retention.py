"""Puts together what keeps streams whose readers are gone."""

import asyncio
import time
from contextlib import AsyncExitStack

from caravan_engine.clients.abandoned_usage import AbandonedUsage
from caravan_engine.control.settings import WorkerSettings
from caravan_engine.runtime.retained_streams import RetainedStreams, RetentionLimits
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity

_TELEMETRY = "telemetry"
_ACCOUNT_S = 60.0


def open_retained_streams(
    settings: WorkerSettings, tls: TlsIdentity, resources: AsyncExitStack
) -> RetainedStreams:
    """Makes the registry of kept streams; it ends with `resources`, and after the server."""
    usage = _open_usage(settings.telemetry_address, tls, resources)
    limits = settings.retention
    streams = RetainedStreams(
        RetentionLimits(
            limits.time_s,
            limits.stream_bytes,
            limits.total_bytes,
            account_s=limits.time_s or _ACCOUNT_S,
        ),
        on_abandoned=usage.abandoned,
        clock=time.monotonic,
        call_later=asyncio.get_running_loop().call_later,
    )
    resources.callback(streams.close)
    return streams


def _open_usage(address: str | None, tls: TlsIdentity, resources: AsyncExitStack) -> AbandonedUsage:
    if address is None:
        return AbandonedUsage(None)
    channel = open_channel(address, tls=tls, server_name=_TELEMETRY)
    resources.push_async_callback(channel.close)
    usage = AbandonedUsage(channel)
    resources.push_async_callback(usage.finish)
    task = asyncio.get_running_loop().create_task(usage.run(), name="abandoned usage")
    resources.push_async_callback(_end, task)
    return usage


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
