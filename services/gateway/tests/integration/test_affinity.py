"""Calls find the worker that said that it has the beginning of their input."""

import asyncio

import pytest
from fake_worker import FakeWorker
from gateway_client import announced, until

TEXT = "The caravan goes from well to well. " * 30


@pytest.fixture
async def second(home, engine):
    worker = FakeWorker(home)
    await worker.start()
    engine.set_endpoint("worker-2", worker.address, replica_index=1)
    yield worker
    await worker.stop()


@pytest.fixture
async def client(second, engine, start_gateway, client_of):
    gateway = await start_gateway(engine={"routing": "adaptive"})
    await announced(engine, gateway)
    return client_of(gateway)


async def test_marks_go_along_and_what_a_worker_tells_of_them_is_used(client, worker, second):
    await client.generate(TEXT)
    (run,) = [*worker.runs, *second.runs]
    marks = run.marks.hashes
    assert len(marks) == len(run.marks.shares) > 4
    await until(lambda: worker.num_watchers and second.num_watchers, "the watches")

    for holder, other in ((worker, second), (second, worker)):
        other.hold()
        holder.hold(*marks)
        await lands_on(holder, client, TEXT)


async def lands_on(holder, client, text, **fields):
    """Waits until five calls in a row go to a worker: news take their time."""
    in_a_row = 0
    async with asyncio.timeout(20):
        while in_a_row < 5:
            before = len(holder.runs)
            await client.generate(text, **fields)
            in_a_row = in_a_row + 1 if len(holder.runs) > before else 0


async def test_a_session_is_served_where_it_was(client, worker, second):
    await client.generate("short", session_id="s")
    (run,) = [*worker.runs, *second.runs]
    (session,) = run.marks.hashes
    second.hold(session)
    await lands_on(second, client, "another", session_id="s")


async def test_without_adaptive_routing_nothing_is_marked_or_asked(
    gateway, client_of, engine, worker
):
    await client_of(gateway).generate(TEXT, session_id="s")
    assert not worker.runs[0].HasField("marks")
    assert not worker.num_watchers


async def test_a_worker_that_is_gone_is_not_watched(client, engine, second):
    await until(lambda: second.num_watchers, "the watch")
    del engine.endpoints["worker-2"]
    engine.announce()
    await until(lambda: not second.num_watchers, "its end")
