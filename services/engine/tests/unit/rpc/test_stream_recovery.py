"""A client gets the rest of a stream from a worker that knows it only by a journal."""

import asyncio
from contextlib import aclosing

import pytest

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.inference.v1 import generation_pb2 as pb
from caravan_engine.backends.fake import FakeBackend, scripted
from caravan_engine.domain.errors import InvalidFieldError, QueueFullError, StreamNotKeptError
from caravan_engine.domain.events import Completed, Delta, Finished
from caravan_engine.domain.paging.kv_setup import KvOptions, make_kv_manager
from caravan_engine.domain.recovery.live_requests import LiveRequests
from caravan_engine.domain.recovery.records import RequestBegan
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.rpc.convert import generation_of, seed_of
from caravan_engine.rpc.request_journaling import RunJournal
from caravan_engine.rpc.stream_keeping import StreamKeeping
from caravan_engine.rpc.stream_recovery import StreamRecovery
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.output_stream import EventPacer, LoopNotifier
from caravan_engine.runtime.page_adoption import prepare_nothing
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.runtime.request_journal import JournalLimits, RequestJournal
from caravan_engine.runtime.retained_streams import RetainedStreams, RetentionLimits
from caravan_engine.runtime.stream_accounts import NoAccounts
from caravan_engine.storage.checksums import checksum

PROMPT = tuple(b"prompt")
CALLER = worker_pb.Caller(tenant="acme", principal="alice", priority=10, request_id="req-1")
SAMPLED = pb.SamplingOptions(temperature=5.0, top_k=40)
MIROSTAT = pb.SamplingOptions(temperature=5.0, mirostat=pb.MirostatOptions(tau=2.0))


class Medium:
    """A file that is read while it is written."""

    def __init__(self):
        self.records, self.num_bytes = [], 0

    def rewrite(self, records):
        self.records = list(records)

    def append(self, records):
        self.records += records

    def discard(self):
        self.records = []

    def close(self):
        pass


class Call:
    """As much of a call as streams need."""

    def end(self, error):
        raise AssertionError(error)


class Worker:
    """A worker without its process and its wires."""

    def __init__(self, engine, recovered=()):
        self.medium = Medium()
        self.journal = RequestJournal(self.medium, JournalLimits(), recovered)
        self.journal.commit()
        loop = asyncio.get_running_loop()
        self.kept = RetainedStreams(
            RetentionLimits(),
            on_abandoned=lambda _stream: None,
            clock=loop.time,
            call_later=loop.call_later,
            accounts=NoAccounts(),
        )
        keeping = StreamKeeping(
            engine, self.kept, RunJournal(self.journal), prepare_nothing, model="m", digest="d"
        )
        self.streams = StreamRecovery(keeping, self.journal, recovered, digest="d")

    async def events(self, run):
        request = await to_request(run, "req-1", None)
        async with aclosing(self.streams.events(run, request, Call())) as events:
            async for event in events:
                yield event

    async def find(self, asked):
        return await self.streams.find(asked, Call(), to_request)

    def recorded(self):
        """What the next worker would find now."""
        self.journal.commit()
        live = LiveRequests()
        for record in self.medium.records:
            live.apply(record)
        return list(live)


async def to_request(run, request_id, deadline):
    return generation_of(
        run, prompt=PROMPT, seed=seed_of(run.request), request_id=request_id, deadline=deadline
    )


@pytest.fixture
async def make_worker():
    engines, workers, fatal = [], [], []

    def make(recovered=(), backend=None, **limits):
        backend = backend or FakeBackend()
        settings = {"num_seats": 4, "num_cells": 4096, "context_tokens": 1000, "token_budget": 64}
        options = KvOptions(num_seats=4, num_cells=4096, page_size=16, host_budget_bytes=1 << 20)
        engine = EngineLoop(
            backend,
            SchedulerLimits(**{**settings, **limits}),
            PagedMemory(make_kv_manager(options), checksum),
            notify=LoopNotifier(asyncio.get_running_loop()),
            on_fatal=fatal.append,
            pacer=EventPacer(max_interval_s=0),
        )
        engine.start()
        engines.append(engine)
        workers.append(Worker(engine, recovered))
        return workers[-1]

    yield make
    for worker in workers:
        worker.kept.close()
    for engine in engines:
        await asyncio.to_thread(engine.stop)
    assert fatal == []


def run_of(**fields):
    given = {"model": "m", "max_output_tokens": 12, "seed": 5, "sampling": SAMPLED}
    return worker_pb.RunRequest(
        request=pb.GenerateRequest(**{**given, **fields}),
        caller=CALLER,
        retention=worker_pb.Retention(usage_id="usage-1", resumable=True),
    )


def whole(events):
    """Texts, tokens and ends of each choice; nothing may be missing or come twice."""
    choices = {}
    for event in events:
        if isinstance(event, Delta):
            text, tokens, end = choices.get(event.choice_index, ("", (), None))
            assert event.token_offset == len(tokens)
            choices[event.choice_index] = (text + event.text, tokens + event.token_ids, end)
        elif isinstance(event, Finished):
            *rest, end = choices.get(event.choice_index, ("", (), None))
            assert end is None
            choices[event.choice_index] = (*rest, event)
    return choices


def question(events, num_choices):
    """How a client that has `events` asks for the rest."""
    has = whole(events)
    choices = []
    for index in range(num_choices):
        _, tokens, end = has.get(index, ("", (), None))
        choices.append(
            worker_pb.ReceivedChoice(output_tokens=len(tokens), finished=end is not None)
        )
    return worker_pb.FindStreamRequest(caller=CALLER, choices=choices)


CASES = {
    "drawn": {},
    "choices": {"choice_count": 2},
    "mirostat": {"sampling": MIROSTAT},
    "log-probabilities": {"logprobs": pb.LogprobOptions(top_count=1)},
    "stop string": {"stop": ["STOP"], "sampling": pb.SamplingOptions(temperature=0)},
}


@pytest.mark.parametrize("case", CASES)
async def test_whatever_was_written_last_the_client_gets_exactly_the_rest(make_worker, case):
    run = run_of(**CASES[case])
    script = {bytes(PROMPT): "a STO-é STOP".encode()} if case == "stop string" else None

    def make(recovered=()):
        backend = FakeBackend(next_token=scripted(script)) if script else FakeBackend()
        return make_worker(recovered, backend)

    first, undisturbed, journals = make(), [], []
    async for event in first.events(run):
        undisturbed.append(event)
        journals.append(first.recorded())
    num_choices = run.request.choice_count or 1
    for recorded in journals[:-1:3]:  # the last one is that of a request that ended
        for cut in range(1, len(undisturbed), 2):
            before = undisturbed[:cut]
            found = await make(recorded).find(question(before, num_choices))
            has = whole(before)
            for index, choice in enumerate(found.run.continuation.choices):
                assert tuple(choice.token_ids) == has.get(index, ("", ()))[1]
            after = [e async for e in make(recorded).events(found.run)]
            assert whole([*before, *after]) == whole(undisturbed)
            assert isinstance(after[-1], Completed)
            assert after[-1].output_tokens == undisturbed[-1].output_tokens


@pytest.fixture
async def recovered(make_worker):
    """What is known of a stream that was cut off after three events."""
    worker = make_worker()
    events = []
    async with aclosing(worker.events(run_of())) as stream:
        while len(events) < 3:
            events.append(await anext(stream))
        return worker.recorded(), events


async def test_what_was_found_goes_on_where_it_was_found(make_worker, recovered):
    recorded, before = recovered
    worker = make_worker(recorded)
    assert worker.streams.handles
    found = await worker.find(question(before, 1))
    assert not worker.streams.handles
    after = [event async for event in worker.events(found.run)]
    assert len(whole([*before, *after])[0][1]) == 12
    assert worker.recorded() == []


async def test_a_request_that_is_sent_again_is_not_kept_beside_it(make_worker, recovered):
    recorded, _ = recovered
    worker = make_worker(recorded)
    assert [event async for event in worker.events(run_of())]
    assert not worker.streams.handles
    assert worker.recorded() == []


async def test_nobody_else_finds_it(make_worker, recovered):
    recorded, before = recovered
    worker = make_worker(recorded)
    for name in ("tenant", "principal", "request_id"):
        asked = question(before, 1)
        setattr(asked.caller, name, "other")
        with pytest.raises(StreamNotKeptError):
            await worker.find(asked)
    assert worker.streams.handles


async def test_it_is_given_up_on_order_when_stopped_and_when_its_gateway_drops_it(
    make_worker, recovered
):
    recorded, before = recovered

    def stop(worker):
        worker.streams.stop(worker_pb.StopStreamRequest(caller=CALLER))

    def release(worker):
        worker.streams.release(worker_pb.ReleaseStreamsRequest(dropped_usage_ids=["usage-1"]))

    def give_up(worker):
        assert worker.streams.give_up() == 1

    def give_up_tenant(worker):
        assert worker.streams.give_up("other") == 0
        assert worker.streams.give_up("acme") == 1

    for end in (stop, release, give_up, give_up_tenant):
        worker = make_worker(recorded)
        end(worker)
        assert worker.recorded() == []
        with pytest.raises(StreamNotKeptError):
            await worker.find(question(before, 1))


async def test_it_is_still_there_after_it_could_not_go_on(make_worker, recovered):
    recorded, before = recovered
    worker = make_worker(recorded, queue_capacity=0)
    with pytest.raises(QueueFullError):
        await worker.find(question(before, 1))
    assert worker.streams.handles
    assert len(worker.recorded()) == 1


async def test_what_a_client_cannot_have_is_refused(make_worker, recovered):
    recorded, _ = recovered
    for choices in ([(13, False)], [(1, False)] * 2):
        asked = worker_pb.FindStreamRequest(
            caller=CALLER,
            choices=[worker_pb.ReceivedChoice(output_tokens=n, finished=f) for n, f in choices],
        )
        worker = make_worker(recorded)
        with pytest.raises(InvalidFieldError):
            await worker.find(asked)
        assert worker.streams.handles


async def test_one_that_nothing_was_told_of_begins(make_worker):
    live = LiveRequests()
    live.apply(RequestBegan(1, run_of().SerializeToString(), 0))
    worker = make_worker(list(live))
    found = await worker.find(question([], 1))
    after = [event async for event in worker.events(found.run)]
    assert len(whole(after)[0][1]) == 12


async def test_what_cannot_be_read_is_struck_out(make_worker):
    live = LiveRequests()
    live.apply(RequestBegan(1, b"\xff\xff\xff", 0))
    worker = make_worker(list(live))
    assert not worker.streams.handles
    assert worker.recorded() == []
