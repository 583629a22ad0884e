import asyncio
from collections.abc import AsyncIterator

import pytest

from caravan_telemetry.domain.errors import (
    DrainingError,
    HostTakenOverError,
    InvalidFieldsError,
)
from caravan_telemetry.domain.worker_report import HostReport
from caravan_telemetry.domain.worker_totals import WorkerTotals
from caravan_telemetry.runtime.host_streams import HostStreams


@pytest.fixture
def totals(fake_clock) -> WorkerTotals:
    return WorkerTotals(clock=fake_clock, silence_limit_s=5, remembered_limit=9, model_limit=9)


class Feed:
    """A stream of reports that a test writes; each is taken before `send` returns."""

    def __init__(self, streams: HostStreams) -> None:
        self._queue: asyncio.Queue[HostReport | None] = asyncio.Queue()
        self.following = asyncio.ensure_future(streams.follow(self._reports()))

    async def send(self, report: HostReport | None) -> None:
        await self._queue.put(report)
        joined = asyncio.ensure_future(self._queue.join())
        await asyncio.wait({joined, self.following}, return_when=asyncio.FIRST_COMPLETED)
        joined.cancel()

    async def _reports(self) -> AsyncIterator[HostReport]:
        while (report := await self._queue.get()) is not None:
            yield report
            self._queue.task_done()


async def test_a_stream_is_followed_until_it_ends(totals, make_worker):
    feed = Feed(HostStreams(totals))
    await feed.send(HostReport("a", (make_worker(output_tokens=3),)))
    assert totals.system().models["bundled"].gauges is not None
    await feed.send(None)
    await feed.following
    assert totals.system().models["bundled"].gauges is None
    assert totals.system().models["bundled"].counters.output_tokens == 3


async def test_a_caller_who_is_cut_off_takes_the_gauges_along(totals, make_worker):
    feed = Feed(HostStreams(totals))
    await feed.send(HostReport("a", (make_worker(),)))
    feed.following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await feed.following
    assert totals.live_host_count == 0


async def test_a_faulty_report_ends_the_stream(totals, make_worker):
    feed = Feed(HostStreams(totals))
    await feed.send(HostReport("a", (make_worker(),)))
    await feed.send(HostReport("a", (make_worker(""),)))
    with pytest.raises(InvalidFieldsError):
        await feed.following
    assert totals.live_host_count == 0


async def test_a_stream_speaks_for_one_host(totals):
    feed = Feed(HostStreams(totals))
    await feed.send(HostReport("a", ()))
    await feed.send(HostReport("b", ()))
    with pytest.raises(InvalidFieldsError):
        await feed.following


async def test_a_newer_stream_ends_the_older(totals, make_worker):
    streams = HostStreams(totals)
    old, new = Feed(streams), Feed(streams)
    await old.send(HostReport("a", (make_worker(),)))
    await new.send(HostReport("a", (make_worker(),)))
    await old.send(HostReport("a", (make_worker(),)))
    with pytest.raises(HostTakenOverError):
        await old.following
    assert totals.live_host_count == 1
    await new.send(None)
    await new.following


async def test_draining_ends_streams_and_refuses_new_ones(totals, make_worker):
    streams = HostStreams(totals)
    feed = Feed(streams)
    await feed.send(HostReport("a", (make_worker(),)))
    streams.drain()
    with pytest.raises(DrainingError):
        await feed.following
    assert totals.live_host_count == 0
    with pytest.raises(DrainingError):
        await Feed(streams).following
