"""Streams that break, against a gateway whose breaks the test chooses."""

import asyncio
import threading
from collections import deque

import pytest

from caravan.gateway.v1 import stream_service_pb2 as stream_pb
from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2 as inference_pb
from caravan_client import AsyncCaravan, Caravan, Delta, Started, UnavailableError
from caravan_rpckit.errors import CaravanError, Reason
from caravan_rpckit.server import RpcServer
from caravan_testkit.waiting import wait_until

NUM_TOKENS = 10


class BrokenError(CaravanError):
    def __init__(self, reason):
        super().__init__("Broken by a fake.", retry_after_s=0.01)
        self.reason = reason


class BreakingGateway:
    """Streams numbers as tokens; `breaks` are the tokens before which the next streams break."""

    def __init__(self):
        self.breaks = deque()
        self.refusals = deque()
        self.resumed = []
        self.cancelled = []
        self.metadata = []
        self.is_endless = False
        self.breaks_after_the_end = False
        self._server = RpcServer("127.0.0.1:0", announce_request_id=True)
        self._server.add(self, inference_pb.DESCRIPTOR.services_by_name["InferenceService"])
        self._server.add(self, stream_pb.DESCRIPTOR.services_by_name["StreamService"])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def address(self):
        return f"127.0.0.1:{self._server.port}"

    def start(self):
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(20)

    def stop(self):
        asyncio.run_coroutine_threadsafe(self._server.stop(0), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def StreamGenerate(self, request, call):
        self.metadata.append(dict(call.metadata))
        async for event in self._events(call.request_id, 0):
            yield event

    async def ResumeGenerate(self, request, call):
        self.metadata.append(dict(call.metadata))
        self.resumed.append((request.request_id, [each.output_tokens for each in request.choices]))
        if self.refusals:
            raise BrokenError(self.refusals.popleft())
        count = request.choices[0].output_tokens if request.choices else 0
        async for event in self._events(request.request_id, count):
            yield stream_pb.ResumeGenerateResponse(event=event)

    async def CancelGenerate(self, request, call):
        self.cancelled.append((request.model, request.request_id))
        return stream_pb.CancelGenerateResponse()

    async def _events(self, request_id, first):
        break_at = self.breaks.popleft() if self.breaks else None
        started = pb.Started(request_id=request_id, model="alpha", seed=7, input_tokens=4)
        yield pb.GenerateEvent(started=started)
        for at in range(first, NUM_TOKENS):
            if at == break_at:
                raise BrokenError(Reason.DRAINING)
            delta = pb.Delta(text=f"{at} ", token_ids=[at], token_offset=at)
            yield pb.GenerateEvent(delta=delta)
        if self.is_endless:
            await asyncio.Event().wait()
        finished = pb.Finished(finish_reason=pb.FINISH_REASON_LENGTH, output_tokens=NUM_TOKENS)
        yield pb.GenerateEvent(finished=finished)
        usage = pb.Usage(input_tokens=4, output_tokens=NUM_TOKENS)
        yield pb.GenerateEvent(completed=pb.Completed(usage=usage))
        if self.breaks_after_the_end:
            raise BrokenError(Reason.DRAINING)

    async def Generate(self, request, call):
        raise BrokenError(Reason.DRAINING)

    async def Embed(self, request, call):
        raise BrokenError(Reason.DRAINING)

    async def Tokenize(self, request, call):
        raise BrokenError(Reason.DRAINING)

    async def Detokenize(self, request, call):
        raise BrokenError(Reason.DRAINING)


@pytest.fixture
def breaking():
    gateway = BreakingGateway()
    gateway.start()
    yield gateway
    gateway.stop()


@pytest.fixture
def client(breaking):
    with Caravan(breaking.address, api_key="k") as client:
        yield client


def check(events, generation):
    assert [event.token_ids[0] for event in events if isinstance(event, Delta)] == list(
        range(NUM_TOKENS)
    )
    assert sum(isinstance(event, Started) for event in events) == 1
    assert generation.text == "".join(f"{at} " for at in range(NUM_TOKENS))


def test_a_broken_stream_goes_on_where_it_was(breaking, client):
    breaking.breaks.extend((3, 3, 7))
    with client.stream("Once", model="alpha") as stream:
        events = list(stream)
    check(events, stream.generation)
    assert [counts for _, counts in breaking.resumed] == [[3], [3], [7]]
    assert {name for name, _ in breaking.resumed} == {stream.request_id}
    assert {each["x-request-id"] for each in breaking.metadata} == {stream.request_id}
    assert breaking.cancelled == []


async def test_a_broken_stream_goes_on_for_asyncio_too(breaking):
    breaking.breaks.extend((0, 7))
    async with (
        AsyncCaravan(breaking.address, api_key="k") as client,
        client.stream("Once", model="alpha") as stream,
    ):
        events = [event async for event in stream]
    check(events, stream.generation)
    assert [counts for _, counts in breaking.resumed] == [[], [7]]
    assert breaking.cancelled == []


def test_a_connection_that_breaks_behind_the_last_event_broke_nothing(breaking, client):
    breaking.breaks_after_the_end = True
    with client.stream("Once", model="alpha") as stream:
        events = list(stream)
    check(events, stream.generation)
    assert breaking.resumed == breaking.cancelled == []


async def test_nor_does_it_for_asyncio(breaking):
    breaking.breaks_after_the_end = True
    async with (
        AsyncCaravan(breaking.address, api_key="k", max_retries=0) as client,
        client.stream("Once", model="alpha") as stream,
    ):
        events = [event async for event in stream]
    check(events, stream.generation)
    assert breaking.resumed == breaking.cancelled == []


def test_a_gateway_that_is_not_there_yet_is_asked_again(breaking, client):
    breaking.breaks.append(3)
    breaking.refusals.extend((Reason.DEPENDENCY_UNAVAILABLE, Reason.WORKER_DIED))
    with client.stream("Once", model="alpha") as stream:
        events = list(stream)
    check(events, stream.generation)


def test_a_stream_that_nobody_keeps_ends_as_it_broke(breaking, client):
    breaking.breaks.append(3)
    breaking.refusals.append(Reason.STREAM_NOT_KEPT)
    with (
        pytest.raises(UnavailableError) as raised,
        client.stream("Once", model="alpha") as stream,
    ):
        list(stream)
    assert raised.value.reason == "DRAINING"
    assert breaking.cancelled == []


def test_streams_say_that_they_can_be_resumed_unless_nothing_is_repeated(breaking, client):
    with client.stream("Once", model="alpha") as stream:
        list(stream)
    with Caravan(breaking.address, api_key="k", max_retries=0) as other:
        breaking.breaks.append(3)
        with pytest.raises(UnavailableError), other.stream("Once", model="alpha") as stream:
            list(stream)
    assert [each.get("x-caravan-resumable") for each in breaking.metadata] == ["1", None]
    assert breaking.resumed == []


def test_leaving_a_stream_says_that_its_rest_is_not_wanted(breaking, client):
    breaking.is_endless = True
    with client.stream("Once", model="alpha") as stream:
        next(stream)
    wait_until(lambda: breaking.cancelled, timeout_s=20, what="word of it")
    assert breaking.cancelled == [("alpha", stream.request_id)]


def test_closing_the_client_waits_for_that_word(breaking):
    breaking.is_endless = True
    with (
        Caravan(breaking.address, api_key="k") as client,
        client.stream("Once", model="alpha") as stream,
    ):
        next(stream)
    assert breaking.cancelled == [("alpha", stream.request_id)]


async def test_a_cancelled_reader_says_it_too(breaking):
    breaking.is_endless = True
    async with AsyncCaravan(breaking.address, api_key="k") as client:
        stream = client.stream("Once", model="alpha")
        await anext(stream)

        async def read_on():
            async for _ in stream:
                pass

        task = asyncio.create_task(read_on())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert breaking.cancelled == [("alpha", stream.request_id)]
