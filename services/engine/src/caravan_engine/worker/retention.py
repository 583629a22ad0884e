"""Puts together what keeps streams whose readers are gone."""

import asyncio
import time
from contextlib import AsyncExitStack

from caravan_engine.clients.abandoned_usage import AbandonedUsage, OwedRecords, account_of
from caravan_engine.control.settings import WorkerSettings
from caravan_engine.runtime.account_book import AccountBook
from caravan_engine.runtime.retained_streams import RetainedStreams, RetentionLimits
from caravan_engine.runtime.stream_accounts import NoAccounts
from caravan_engine.storage.account_file import AccountFile
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity

_TELEMETRY = "telemetry"


def open_retained_streams(
    settings: WorkerSettings, tls: TlsIdentity, resources: AsyncExitStack
) -> RetainedStreams:
    """Makes the registry of kept streams; it ends with `resources`, and after the server."""
    accounts = _open_accounts(settings, resources)
    usage = _open_usage(settings.telemetry_address, tls, resources, accounts)
    limits = settings.retention
    streams = RetainedStreams(
        RetentionLimits(
            limits.time_s,
            limits.stream_bytes,
            limits.total_bytes,
            account_s=limits.account_s,
        ),
        on_abandoned=usage.abandoned,
        clock=time.monotonic,
        call_later=asyncio.get_running_loop().call_later,
        accounts=accounts,
    )
    resources.callback(streams.close)
    return streams


def _open_accounts(settings: WorkerSettings, resources: AsyncExitStack) -> AccountBook | NoAccounts:
    if settings.telemetry_address is None:  # nobody would ever be told
        return NoAccounts()
    book = AccountBook(AccountFile(settings.account_file), account_of)
    resources.push_async_callback(book.finish)
    task = asyncio.get_running_loop().create_task(book.run(), name="accounts")
    resources.push_async_callback(_end, task)
    return book


def _open_usage(
    address: str | None, tls: TlsIdentity, resources: AsyncExitStack, owed: OwedRecords
) -> AbandonedUsage:
    if address is None:
        return AbandonedUsage(None, owed)
    channel = open_channel(address, tls=tls, server_name=_TELEMETRY)
    resources.push_async_callback(channel.close)
    usage = AbandonedUsage(channel, owed)
    resources.push_async_callback(usage.finish)
    task = asyncio.get_running_loop().create_task(usage.run(), name="abandoned usage")
    resources.push_async_callback(_end, task)
    return usage


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
