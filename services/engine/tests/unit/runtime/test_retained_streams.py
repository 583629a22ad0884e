"""Streams that are kept for a reader who comes back."""

import asyncio

import pytest
from retention_world import (
    COMPLETED,
    FINISHED,
    STARTED,
    Reader,
    World,
    delta,
    received,
    until_over,
    until_tokens,
)

from caravan_engine.domain.errors import (
    DrainingError,
    RequestCancelledError,
    ResumedElsewhereError,
)
from caravan_engine.domain.kept_output import KeptOutput
from caravan_engine.domain.request import Emitted
from caravan_testkit.waiting import wait_until_async


@pytest.fixture
async def make_world():
    """Makes worlds, and ends what is left of them."""
    worlds = []

    def make(**limits):
        worlds.append(World(**limits))
        return worlds[-1]

    yield make
    for world in worlds:
        world.streams.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def world(make_world):
    return make_world()


async def test_a_generation_goes_on_without_its_reader_and_the_next_one_gets_the_rest(world):
    source, stream = world.begin()
    source.send(STARTED, delta(0, 1))
    first = Reader(stream)
    await first.got(2)
    await first.leave()
    source.send(delta(1, 2))
    await until_tokens(stream, 2)
    second = Reader(stream, received(stream, 1))
    await second.got(2)
    source.send(delta(2, 3), FINISHED, COMPLETED, None)
    assert await second.end() == [STARTED, delta(1, 2), delta(2, 3), FINISHED, COMPLETED]
    assert not source.is_closed


async def test_what_ended_meanwhile_is_told_to_its_end(world):
    source, stream = world.begin()
    source.send(STARTED, delta(0, 1, 2, 3), FINISHED, COMPLETED, None)
    first = Reader(stream)
    await first.got(1)
    await first.leave()
    await until_over(stream)
    assert await Reader(stream, received(stream, 3)).end() == [STARTED, FINISHED, COMPLETED]


async def test_what_was_read_to_its_end_can_be_read_again(world):
    source, stream = world.begin()
    source.send(STARTED, delta(0, 1, 2, 3), FINISHED, COMPLETED, None)
    await Reader(stream).end()
    assert world.streams.named(stream.origin.name) is stream
    assert await Reader(stream, received(stream, 0)).end() == [
        STARTED,
        delta(0, 1, 2, 3),
        FINISHED,
        COMPLETED,
    ]


async def test_the_latest_of_two_readers_wins(world):
    source, stream = world.begin()
    source.send(STARTED, delta(0, 1))
    first = Reader(stream)
    await first.got(2)
    second, third = Reader(stream, received(stream, 1)), Reader(stream, received(stream, 1))
    await first.end()
    await second.end()
    source.send(delta(1, 2), None)
    await third.end()
    assert isinstance(first.error, ResumedElsewhereError)
    assert isinstance(second.error, ResumedElsewhereError)
    assert third.events == [STARTED, delta(1, 2)]
    assert third.error is None


async def test_nobody_comes_back_and_the_generation_is_ended_and_accounted_for_once(world):
    source, stream = world.begin()
    source.send(STARTED, delta(0, 1))
    reader = Reader(stream)
    await reader.got(2)
    await reader.leave()
    assert [timer.delay_s for timer in world.timers.pending] == [60.0]
    world.timers.ring()
    assert source.is_closed
    assert world.abandoned == [stream]
    assert world.streams.named(stream.origin.name) is None
    assert (len(world.streams), world.streams.num_bytes) == (0, 0)


async def test_time_does_not_run_out_while_somebody_reads(world):
    source, stream = world.begin()
    source.send(STARTED)
    first = Reader(stream)
    await first.got(1)
    await first.leave()
    second = Reader(stream, received(stream, 0))
    await second.got(1)
    assert world.timers.pending == []
    await second.leave()
    assert len(world.timers.pending) == 1


async def test_what_has_not_begun_ends_with_its_reader(world):
    source, stream = world.begin()
    reader = Reader(stream)
    await asyncio.sleep(0)
    await reader.leave()
    assert source.is_closed
    assert world.abandoned == []
    assert len(world.streams) == 0


async def test_an_error_is_the_readers_business_unless_it_never_says_so(world):
    source, stream = world.begin()
    source.send(STARTED, DrainingError())
    reader = Reader(stream)
    await reader.end()
    assert isinstance(reader.error, DrainingError)
    assert world.streams.named(stream.origin.name) is None  # it goes on elsewhere, or nowhere
    assert world.abandoned == []
    world.timers.ring()
    assert world.abandoned == [stream]
    assert len(world.streams) == 0


async def test_an_error_that_its_reader_accounts_for_is_not_told(world):
    source, stream = world.begin()
    source.send(STARTED, DrainingError())
    await Reader(stream).end()
    world.streams.release((), ("usage-call",))
    world.timers.ring()
    assert world.abandoned == []
    assert len(world.streams) == 0


async def test_tokens_are_accounted_for_from_the_beginning_until_somebody_else_does(world):
    source, stream = world.begin()
    assert world.accounts.tokens == {"usage-call": 0}
    source.send(STARTED, delta(0, 1, 2), delta(2, 3), FINISHED, COMPLETED, None)
    reader = Reader(stream)
    await reader.end()
    assert world.accounts.tokens == {"usage-call": 3}
    assert world.accounts.num_changes == 3  # new, begun, over; growing is not urgent
    world.streams.release(("usage-call",), ())
    assert world.accounts.tokens == {}


@pytest.mark.parametrize("resumable", [True, False])
async def test_what_nobody_accounts_for_stays_until_it_is_delivered(world, resumable):
    source, stream = world.begin(resumable=resumable)
    source.send(STARTED, delta(0, 1))
    reader = Reader(stream)
    await reader.got(2)
    await reader.leave()
    world.timers.ring()
    assert world.abandoned == [stream]
    assert world.accounts.tokens == {"usage-call": 1}


async def test_what_never_began_needs_no_account(world):
    _, stream = world.begin()
    reader = Reader(stream)
    await asyncio.sleep(0)
    await reader.leave()
    assert world.accounts.tokens == {}


async def test_an_error_that_came_meanwhile_is_told_after_the_rest(world):
    source, stream = world.begin()
    source.send(STARTED, delta(0, 1))
    first = Reader(stream)
    await first.got(2)
    await first.leave()
    source.send(delta(1, 2), DrainingError())
    await until_over(stream)
    second = Reader(stream, received(stream, 1))
    assert await second.end() == [STARTED, delta(1, 2)]
    assert isinstance(second.error, DrainingError)
    assert world.abandoned == []


async def test_who_has_as_much_as_may_be_waits_for_a_reader(make_world):
    world = make_world(stream_bytes=1500)
    source, stream = world.begin()
    source.send(STARTED, delta(0, 0))
    first = Reader(stream)
    await first.got(2)
    await first.leave()
    source.send(*(delta(at, at) for at in range(1, 100)), None)

    async def full():
        return world.streams.is_full(stream)

    await wait_until_async(full, timeout_s=20, what="a full stream")
    for _ in range(5):
        await asyncio.sleep(0)
    assert 2 < stream.output.output_tokens < 20
    second = Reader(stream, received(stream, 1))
    await second.end()
    assert [event.token_offset for event in second.events[1:]] == list(range(1, 100))


async def test_those_that_were_left_first_go_when_all_have_too_much(make_world):
    world = make_world(total_bytes=5000, stream_bytes=10_000)
    left = []
    for name in ("a", "b"):
        source, stream = world.begin(name)
        source.send(STARTED, *(delta(at, at) for at in range(10)))
        reader = Reader(stream)
        await reader.got(11)
        await reader.leave()
        left.append(stream)
    source, stream = world.begin("c")
    source.send(STARTED, *(delta(at, at) for at in range(10)))
    await Reader(stream).got(11)
    assert world.abandoned == left[:1]
    assert world.streams.num_bytes <= 5000


async def test_those_that_are_over_go_before_those_that_were_left_first(make_world):
    world = make_world(total_bytes=5000, stream_bytes=10_000)
    events = (STARTED, *(delta(at, at) for at in range(10)))
    source, left = world.begin("left")
    source.send(*events)
    reader = Reader(left)
    await reader.got(11)
    await reader.leave()
    source, over = world.begin("over")
    source.send(*events, None)
    await Reader(over).end()
    world.streams.release([over.origin.usage_id], [])
    source, _ = world.begin("growing")
    source.send(*events)
    await Reader(world.streams.of_usage("usage-growing")).got(11)
    assert world.streams.of_usage("usage-over") is None
    assert world.streams.of_usage("usage-left") is left
    assert world.abandoned == []


async def test_one_that_grows_over_everything_is_not_kept_and_ends_with_its_reader(make_world):
    world = make_world(total_bytes=1000, stream_bytes=10_000)
    source, stream = world.begin()
    source.send(STARTED, *(delta(at, at) for at in range(10)))
    reader = Reader(stream)
    await reader.got(11)
    assert len(world.streams) == 0
    await reader.leave()
    assert source.is_closed
    assert world.abandoned == [stream]


async def test_what_somebody_else_accounts_for_is_not_told_at_its_end(world):
    source, stream = world.begin()
    source.send(STARTED, COMPLETED, None)
    await Reader(stream).end()
    world.streams.release([stream.origin.usage_id], [])
    world.timers.ring()
    assert world.abandoned == []
    assert len(world.streams) == 0


async def test_what_is_dropped_ends_at_once_and_untold(world):
    source, stream = world.begin()
    source.send(STARTED)
    reader = Reader(stream)
    await reader.got(1)
    world.streams.release([], [stream.origin.usage_id, "unknown"])
    await reader.end()
    assert source.is_closed
    assert isinstance(reader.error, RequestCancelledError)
    assert world.abandoned == []
    assert len(world.streams) == 0


async def test_a_cancelled_generation_is_told_of_and_its_reader_gets_cancelled(world):
    source, stream = world.begin()
    source.send(STARTED)
    reader = Reader(stream)
    await reader.got(1)
    world.streams.abandon(stream)
    await reader.end()
    assert isinstance(reader.error, RequestCancelledError)
    assert source.is_closed
    assert world.abandoned == [stream]


async def test_of_two_with_one_name_the_latest_is_found(world):
    _, first = world.begin("same", "one")
    _, second = world.begin("same", "two")
    assert world.streams.named(first.origin.name) is second
    world.streams.release([], ["two"])
    assert world.streams.named(first.origin.name) is None
    assert world.streams.of_usage("one") is first


async def test_a_generation_that_begins_anew_replaces_what_was_kept_of_it(world):
    source, first = world.begin("same", "one")
    _, second = world.begin("same", "one", KeptOutput((Emitted((1,)),)))
    assert source.is_closed
    assert world.streams.of_usage("one") is second
    assert world.abandoned == []
    assert first is not second


async def test_without_time_nothing_is_kept(make_world):
    world = make_world(time_s=0)
    source, stream = world.begin()
    source.send(STARTED)
    reader = Reader(stream)
    await reader.got(1)
    assert world.streams.named(stream.origin.name) is None
    await reader.leave()
    assert source.is_closed
    world.timers.ring()
    assert world.abandoned == [stream]


async def test_what_can_not_be_resumed_ends_with_its_reader_and_waits_for_its_account(world):
    source, stream = world.begin(resumable=False)
    source.send(STARTED, delta(0, 1))
    reader = Reader(stream)
    await reader.got(2)
    assert world.streams.named(stream.origin.name) is None
    await reader.leave()
    assert source.is_closed
    assert world.abandoned == []
    world.timers.ring()
    assert world.abandoned == [stream]
    assert stream.output.output_tokens == 1
    assert len(world.streams) == 0


async def test_what_can_not_be_resumed_is_forgotten_when_it_is_accounted_for(world):
    source, stream = world.begin(resumable=False)
    source.send(STARTED, delta(0, 1), FINISHED, COMPLETED, None)
    assert len(await Reader(stream).end()) == 4
    world.streams.release([stream.origin.usage_id], [])
    assert (len(world.streams), world.streams.num_unread) == (0, 0)
    world.timers.ring()
    assert world.abandoned == []


async def test_a_recovered_generation_goes_on_before_anybody_reads_it(world):
    source, stream = world.begin("r", output=KeptOutput((Emitted((1, 2)),)))
    stream.leave_alone()
    source.send(STARTED, delta(2, 3), None)
    await until_over(stream)
    assert await Reader(stream, received(stream, 2)).end() == [STARTED, delta(2, 3)]


async def test_at_the_end_who_reads_accounts_for_a_generation_and_else_the_worker(world):
    source, read = world.begin("read")
    source.send(STARTED)
    reader = Reader(read)
    await reader.got(1)
    other, left = world.begin("left")
    other.send(STARTED)
    gone = Reader(left)
    await gone.got(1)
    await gone.leave()
    world.streams.close()
    await reader.end()
    assert world.abandoned == [left]
    assert (source.is_closed, other.is_closed) == (True, True)
