"""Streams of a worker that is drained go on from its memory, in another process."""

import asyncio
import contextlib
import os
import shutil
import signal

import grpc
import pytest

from caravan.engine.v1 import host_service_pb2 as host_pb
from caravan.engine.v1 import host_service_pb2_grpc as host_grpc
from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_engine.handover_settings import HandoverSettings
from caravan_engine.storage.handover_folder import handover_directory
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until_async

TEXT = "There was a town by the sea whose people kept lists of everything that came to pass. " * 3
NUM_TOKENS = 400
# With fewer than 64 tokens in a step it is the same arithmetic however a text is divided.
SMALL_STEPS = ("--context.token-budget", "48", "--kv.page-size", "64")


class Stream:
    """What has come of one stream, over however many calls."""

    def __init__(self, view, name, tenant="default"):
        self.asked = {"model": "slow", "text": TEXT, "max_output_tokens": NUM_TOKENS}
        self.view, self.caller = view, {"request_id": name, "tenant": tenant}
        self.tokens, self.digest, self.cached_tokens, self.call = [], "", 0, None

    async def read(self, num_tokens=NUM_TOKENS):
        async for answer in self.call:
            match answer.event.WhichOneof("event"):
                case "started":
                    self.digest = answer.event.started.model_digest
                    self.cached_tokens = answer.event.started.cached_tokens
                case "delta":
                    self.tokens += answer.event.delta.token_ids
                case "completed":
                    return
            if len(self.tokens) >= num_tokens:
                return

    async def begin(self, worker, num_tokens=20):
        self.call = worker.Run(self.view.request(**self.asked, caller=self.caller))
        await self.read(num_tokens)
        return self

    async def is_told_to_leave(self):
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await self.read()
        return error_details(told.value).reason == "DRAINING"

    async def go_on(self, worker):
        choice = worker_pb.ChoiceContinuation(token_ids=self.tokens)
        told = worker_pb.Continuation(choices=[choice], model_digest=self.digest)
        self.call = worker.Run(
            self.view.request(**self.asked, caller=self.caller, continuation=told)
        )
        await self.read()


class Drained:
    """A host whose workers are drained."""

    def __init__(self, view):
        self.view = view
        self.host = host_grpc.HostServiceStub(view.channel)
        found = handover_directory(HandoverSettings(), view.host.home)
        self.folder = found

    def files(self):
        return list(self.folder.glob("*/*/*"))

    def begin(self, **fields):
        request = host_pb.DrainWorkersRequest(model="slow", timeout_ms=0, **fields)
        return asyncio.create_task(self._order(request))

    async def _order(self, request):
        return await self.host.DrainWorkers(request, timeout=60)


async def tokens_computed(view, worker):
    """How many tokens a worker had to compute: input that was neither shared nor restored."""
    stats = await view.stats_of(worker)
    restored = sum(
        each.token_count
        for each in stats.page_moves
        if each.kind == stats_pb.PAGE_MOVE_KIND_RESTORE
    )
    return restored, stats


@pytest.fixture
async def undisturbed(start_host, view_of):
    """Makes hosts, and what a stream gives that nobody disturbs."""

    async def make(*flags):
        view = await view_of(start_host(*SMALL_STEPS, *flags, load="slow"))
        stream = Stream(view, "undisturbed", "other")
        await stream.begin(await view.worker("slow"), NUM_TOKENS)
        return Drained(view), stream.tokens

    return make


@contextlib.contextmanager
def standing_still(process_id):
    """Keeps a worker from getting anywhere, so that its streams don't end by themselves."""
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


async def replaced(drained, streams):
    """Has the only worker replaced under streams; returns the order, and the next worker."""
    [before] = (await drained.view.picture()).endpoints
    with standing_still((await drained.view.model("slow")).replicas[0].process_id):
        order = drained.begin(restart=True)
        picture = await drained.view.picture(
            lambda picture: before.worker_id not in {each.worker_id for each in picture.endpoints}
        )
    for stream in streams:
        assert await stream.is_told_to_leave()
    return order, drained.view.worker_at(picture.endpoints[0].address)


@pytest.mark.parametrize("num_streams", [1, 3])
async def test_a_restarted_worker_goes_on_from_the_memory_of_the_one_before_it(
    undisturbed, num_streams
):
    drained, wanted = await undisturbed()
    before = await drained.view.worker("slow")
    streams = [
        await Stream(drained.view, f"stream-{number}").begin(before)
        for number in range(num_streams)
    ]
    answer, worker = await replaced(drained, streams)
    for stream in streams:
        await stream.go_on(worker)
        assert len(stream.tokens) == NUM_TOKENS
        if num_streams == 1:  # company changes the rounding
            assert stream.tokens == wanted
    assert (await answer).worker_count == 1
    restored, stats = await tokens_computed(drained.view, worker)
    assert restored >= stats.input_tokens_total  # all of the input, and what was generated
    assert (stats.handovers_taken_total, stats.handovers_recomputed_total) == (num_streams, 0)
    assert drained.files() == []


async def test_so_does_another_replica_without_a_word_from_the_disk(undisturbed):
    drained, wanted = await undisturbed("--models.replicas", "2")
    picture = await drained.view.picture(lambda picture: len(picture.endpoints) == 2)
    first, second = (drained.view.worker_at(each.address) for each in picture.endpoints)
    stream = await Stream(drained.view, "stream").begin(first)
    answer = drained.begin(replica_index=picture.endpoints[0].replica_index)
    assert await stream.is_told_to_leave()
    worker = second
    await stream.go_on(worker)
    assert stream.tokens == wanted
    assert (await answer).ended_request_count == 1
    restored, stats = await tokens_computed(drained.view, worker)
    assert restored >= stats.input_tokens_total
    assert drained.files() == []


def leave_nothing(folder):
    shutil.rmtree(folder)


def damage(folder):
    for path in folder.glob("*/*/*.page"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("harm", [leave_nothing, damage])
async def test_with_nothing_to_go_on_from_it_is_computed_again(undisturbed, harm):
    drained, wanted = await undisturbed()
    stream = await Stream(drained.view, "stream").begin(await drained.view.worker("slow"))
    answer, worker = await replaced(drained, [stream])
    assert drained.files()
    harm(drained.folder)
    await stream.go_on(worker)
    assert stream.tokens == wanted
    await answer
    restored, stats = await tokens_computed(drained.view, worker)
    assert restored == 0
    assert (stats.handovers_taken_total, stats.handovers_recomputed_total) == (0, 1)
    assert drained.files() == []


@pytest.mark.parametrize("flag", ["--handover.budget-bytes", "--handover.time-s"])
async def test_where_nothing_may_be_handed_over_it_is_computed_again(undisturbed, flag):
    drained, wanted = await undisturbed(flag, "0")
    stream = await Stream(drained.view, "stream").begin(await drained.view.worker("slow"))
    answer, worker = await replaced(drained, [stream])
    await stream.go_on(worker)
    assert stream.tokens == wanted
    await answer
    assert (await drained.view.stats_of(worker)).handovers_recomputed_total == 1
    assert not drained.folder.exists()


async def test_the_folder_is_there_only_while_something_is_in_it(undisturbed):
    drained, _ = await undisturbed()
    assert not drained.folder.exists()
    stream = await Stream(drained.view, "stream").begin(await drained.view.worker("slow"))
    answer, worker = await replaced(drained, [stream])
    await answer
    assert drained.files()
    await stream.go_on(worker)
    gone = "no folder"
    await wait_until_async(lambda: _is(not drained.folder.exists()), timeout_s=20, what=gone)


async def test_what_a_killed_host_leaves_is_gone_when_another_starts_and_a_living_one_s_is_not(
    undisturbed, start_host
):
    hosts = [(await undisturbed("--handover.keep-s", "3600"))[0] for _ in range(2)]
    for drained in hosts:
        stream = await Stream(drained.view, "stream").begin(await drained.view.worker("slow"))
        answer, _ = await replaced(drained, [stream])
        await answer
        assert drained.files()
    living, killed = hosts
    killed.view.host.stop(signal.SIGKILL)
    assert killed.files()
    start_host()
    assert not killed.folder.exists()
    assert living.files()


async def test_what_nobody_takes_is_gone_after_its_time(undisturbed):
    drained, _ = await undisturbed("--handover.keep-s", "0.5")
    stream = await Stream(drained.view, "stream").begin(await drained.view.worker("slow"))
    answer, _ = await replaced(drained, [stream])
    await answer
    await wait_until_async(lambda: _is(not drained.files()), timeout_s=20, what="an empty folder")


async def _is(value):
    return value


async def test_a_host_that_ends_leaves_nothing(undisturbed):
    drained, _ = await undisturbed()
    stream = await Stream(drained.view, "stream").begin(await drained.view.worker("slow"))
    answer, _ = await replaced(drained, [stream])
    await answer
    assert drained.files()
    drained.view.host.stop()
    assert not drained.folder.exists()


async def test_pages_on_disk_are_taken_over_by_the_worker_that_replaces_theirs(undisturbed):
    drained, _ = await undisturbed("--kv.disk-budget-bytes", str(1 << 28))
    before = await drained.view.worker("slow")
    stream = await Stream(drained.view, "stream").begin(before)
    answer, worker = await replaced(drained, [stream])
    await answer

    async def has_pages():
        return (await drained.view.stats_of(worker)).disk_page_count > 0

    await wait_until_async(has_pages, timeout_s=20, what="the other worker's pages")
