import asyncio
import inspect

import pytest

import caravan_client
from caravan_client import (
    AsyncCaravan,
    Caravan,
    Completed,
    Delta,
    GatewayUnreachableError,
    InternalError,
    LoadPhase,
    NotFoundError,
    Tls,
    UnavailableError,
    async_client,
    sync_client,
)


@pytest.fixture
async def client(loop_gateway, api_key):
    async with AsyncCaravan(loop_gateway.address) as client:
        yield client


async def test_generation_is_returned_whole(client):
    generation = await client.generate("Once", model="bundled", seed=9)
    assert (generation.text, generation.seed) == ("Once upon a time", 9)
    assert (await client.chat("Hi", model="bundled")).text == "Once upon a time"


async def test_stream_gives_typed_events_and_the_whole_answer(client):
    async with client.stream("Once", model="bundled") as stream:
        events = [event async for event in stream]
    assert isinstance(events[-1], Completed)
    assert stream.generation.text == "Once upon a time"
    assert stream.generation.request_id == stream.request_id


async def test_text_of_a_chat_is_given_piece_by_piece(client):
    async with client.stream_chat("Hi", model="bundled") as stream:
        assert [text async for text in stream.text()] == ["Once ", "upon ", "a time"]
        assert stream.text_so_far == "Once upon a time"


async def test_leaving_a_stream_cancels_the_call(client, loop_gateway):
    loop_gateway.endless = True
    async with client.stream("Once", model="bundled") as stream:
        async for event in stream:
            if isinstance(event, Delta):
                break
    assert await asyncio.to_thread(loop_gateway.left.wait, 10)
    assert [event async for event in stream] == []


async def test_closing_a_stream_ends_its_reader_without_cancelling_it(client, loop_gateway):
    loop_gateway.endless = True
    stream = client.stream("Once", model="bundled")
    arrived = asyncio.Event()

    async def read() -> str:
        async for _ in stream.text():
            arrived.set()
        return "went on"

    reader = asyncio.create_task(read())
    await arrived.wait()
    stream.close()
    assert await reader == "went on"


async def test_cancelling_the_reader_cancels_the_call(client, loop_gateway):
    loop_gateway.endless = True
    arrived = asyncio.Event()

    async def read() -> None:
        async for _ in client.stream("Once", model="bundled"):
            arrived.set()

    reader = asyncio.create_task(read())
    await arrived.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await asyncio.to_thread(loop_gateway.left.wait, 10)


async def test_rich_status_becomes_a_typed_error(client, loop_gateway, reason_failure):
    loop_gateway.failures.append(reason_failure("MODEL_NOT_FOUND"))
    with pytest.raises(NotFoundError) as caught:
        await client.generate("Once", model="x", request_id="my-call")
    assert (caught.value.reason, caught.value.request_id) == ("MODEL_NOT_FOUND", "my-call")


async def test_unavailable_is_repeated_before_the_first_event_only(
    client, loop_gateway, reason_failure
):
    loop_gateway.failures.append(reason_failure("QUEUE_FULL", retry_after_s=0.01))
    loop_gateway.fail_after = reason_failure("WORKER_DIED", retry_after_s=0.01)
    with pytest.raises(UnavailableError, match="WORKER_DIED"):
        async for _ in client.stream("Once", model="bundled"):
            pass
    assert len(loop_gateway.calls) == 2


async def test_unary_call_is_repeated(client, loop_gateway, reason_failure):
    loop_gateway.failures += [reason_failure("QUEUE_FULL", retry_after_s=0.01)] * 2
    assert (await client.status()).serving
    assert len(loop_gateway.calls) == 3


async def test_stream_without_its_last_event_is_an_error(client, loop_gateway):
    loop_gateway.without_end = True
    with pytest.raises(InternalError, match="INVALID_ANSWER"):
        [event async for event in client.stream("Once", model="bundled")]


async def test_refused_connection_says_where(caravan_home):
    async with AsyncCaravan("127.0.0.1:1", api_key="k", max_retries=0) as client:
        with pytest.raises(GatewayUnreachableError, match=r"127\.0\.0\.1:1"):
            await client.status()


async def test_administration_works_like_that_of_the_sync_client(client):
    assert [model.name for model in await client.models.list()] == ["alpha", "beta", "gamma"]
    assert (await client.models.get("alpha")).aliases == ("bundled",)
    async with client.models.load("alpha") as steps:
        assert [step.phase async for step in steps][-1] is LoadPhase.READY
    assert (await client.models.unload("alpha")).num_ended_requests == 2
    await client.principals.create("alice", roles=["user"])
    assert (await client.principals.get("alice")).roles == ("user",)
    assert len(await client.principals.list()) == 1
    created = await client.keys.create("alice")
    assert await client.keys.list() == [created.key]
    assert (await client.keys.revoke(created.key.id)).state == "revoked"
    assert len(await client.roles.list()) == 3


async def test_tls_gateway_is_reached_with_its_ca(tls_gateway, caravan_home, api_key):
    ca = caravan_home / "certs" / "ca.crt"
    async with AsyncCaravan(tls_gateway.address, tls=Tls(ca)) as client:
        assert (await client.status()).serving


def test_both_clients_have_the_same_surface():
    for name in ("Caravan", "Models", "Keys", "Principals", "Roles"):
        blocking = getattr(sync_client, name)
        asynchronous = getattr(async_client, f"Async{name}")
        assert _methods(blocking) == _methods(asynchronous)
    assert caravan_client.Caravan is Caravan


def _methods(kind: type) -> dict[str, list[str]]:
    return {
        name: [str(parameter) for parameter in inspect.signature(method).parameters.values()]
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


async def test_texts_become_tokens_and_back(loop_gateway, api_key):
    async with AsyncCaravan(loop_gateway.address) as client:
        assert await client.tokenize("Once upon", model="alpha") == (5, 6, 7)
        assert await client.detokenize([1, 2], model="alpha") == "ab"
