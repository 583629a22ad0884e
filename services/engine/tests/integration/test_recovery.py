"""What a killed worker had computed is there again when it is back."""

import contextlib
import os
import shutil
import signal

import grpc
import pytest

from caravan.engine.v1 import checkpoints_pb2 as checkpoints_pb
from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan_testkit.waiting import wait_until_async

TEXT = "There was a town by the sea whose people kept lists of everything that came to pass. " * 3
# With fewer than 64 tokens in a step it is the same arithmetic however a text is divided.
SMALL_STEPS = ("--context.token-budget", "48")
SMALL_PAGES = ("--kv.page-size", "16")
ON_DISK = ("--kv.disk-budget-bytes", str(1 << 28))


async def kill_worker(view, model):
    """Kills the model's worker and waits for the next one."""
    before = await view.endpoint(model)
    os.kill((await view.model(model)).replicas[0].process_id, signal.SIGKILL)

    def is_back(picture):
        return any(
            each.model == model and each.worker_id != before.worker_id for each in picture.endpoints
        )

    await view.picture(is_back)


async def begin_and_kill(view, num_tokens, **asked):
    """Runs a request until it has so many tokens, and kills its worker; returns the tokens."""
    worker = await view.worker("slow")
    call = worker.Run(view.request(model="slow", max_output_tokens=200, **asked))
    emitted, digest, text = [], "", ""
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for answer in call:
            match answer.event.WhichOneof("event"):
                case "started":
                    digest = answer.event.started.model_digest
                case "delta":
                    emitted += answer.event.delta.token_ids
                    text += answer.event.delta.text
            if len(emitted) >= num_tokens:
                break
        await kill_worker(view, "slow")
    call.cancel()
    choice = worker_pb.ChoiceContinuation(token_ids=emitted)
    return worker_pb.Continuation(choices=[choice], model_digest=digest), text


@pytest.mark.parametrize("flags", [(), ("--kv.disk-compression", "zstd")], ids=["plain", "zstd"])
async def test_a_stream_goes_on_from_the_pages_of_a_killed_worker(start_host, view_of, flags):
    view = await view_of(start_host(*SMALL_PAGES, *SMALL_STEPS, *ON_DISK, *flags, load="slow"))
    asked = {"worker": "slow", "model": "slow", "text": TEXT, "max_output_tokens": 120}
    wanted = await view.run(**asked, caller={"tenant": "other"})
    wanted_text = "".join(each.event.delta.text for each in wanted)

    continuation, text = await begin_and_kill(view, 60, text=TEXT)
    answers = await view.run(**asked, continuation=continuation)
    text += "".join(each.event.delta.text for each in answers)

    stats = await view.stats("slow")
    num_known = stats.input_tokens_total + len(continuation.choices[0].token_ids)
    [num_restored] = [
        each.token_count
        for each in stats.page_moves
        if each.kind == stats_pb.PAGE_MOVE_KIND_RESTORE
    ]
    assert num_known - 32 <= num_restored < num_known + 16  # pages are restored whole
    assert stats.prefix_hit_tokens_total > 0
    assert answers[-1].event.completed.usage.output_tokens == 120
    assert text == wanted_text


async def test_a_stream_goes_on_from_its_pages_on_another_replica(start_host, view_of):
    view = await view_of(
        start_host(*SMALL_PAGES, *SMALL_STEPS, *ON_DISK, "--models.replicas", "2", load="slow")
    )
    picture = await view.picture(lambda each: len(each.endpoints) == 2)
    first, second = (view.worker_at(each.address) for each in picture.endpoints)
    asked = {"model": "slow", "text": TEXT, "max_output_tokens": 120}
    wanted = [
        answer async for answer in first.Run(view.request(**asked, caller={"tenant": "other"}))
    ]
    call = first.Run(view.request(**asked))
    tokens, digest, text = [], "", ""
    async for answer in call:
        digest = digest or answer.event.started.model_digest
        tokens += answer.event.delta.token_ids
        text += answer.event.delta.text
        if len(tokens) >= 60:
            break
    call.cancel()
    choice = worker_pb.ChoiceContinuation(token_ids=tokens)
    continuation = worker_pb.Continuation(choices=[choice], model_digest=digest)

    answers = [
        answer async for answer in second.Run(view.request(**asked, continuation=continuation))
    ]
    text += "".join(each.event.delta.text for each in answers)
    stats = await view.stats_of(second)
    assert stats.disk_reads_total >= (stats.input_tokens_total + len(tokens)) // 16 - 1
    assert text == "".join(each.event.delta.text for each in wanted)


JOURNAL = ("--journal.enabled", "true")
KEPT = worker_pb.Retention(usage_id="usage-1", resumable=True)


class Client:
    """What has come of one stream, over however many calls."""

    def __init__(self, num_choices=1):
        self.tokens = [[] for _ in range(num_choices)]
        self.texts = [""] * num_choices
        self.ended = set()
        self.usage = None

    async def read(self, call, num_tokens=None):
        """Reads to the end, or until each choice has so many tokens."""
        async for answer in call:
            match answer.event.WhichOneof("event"):
                case "delta":
                    delta = answer.event.delta
                    mine = self.tokens[delta.choice_index]
                    assert delta.token_offset == len(mine)
                    mine += delta.token_ids
                    self.texts[delta.choice_index] += delta.text
                case "finished":
                    self.ended.add(answer.event.finished.choice_index)
                case "completed":
                    self.usage = answer.event.completed.usage
            if num_tokens and min(map(len, self.tokens)) >= num_tokens:
                break
        return self

    def question(self, **caller):
        """How it asks for the rest."""
        caller = {"tenant": "default", "principal": "alice", "request_id": "req-1"} | caller
        choices = [
            worker_pb.ReceivedChoice(output_tokens=len(each), finished=index in self.ended)
            for index, each in enumerate(self.tokens)
        ]
        return worker_pb.FindStreamRequest(caller=worker_pb.Caller(**caller), choices=choices)


async def broken_off(view, num_tokens, **asked):
    """A client whose worker is killed when it has so many tokens, and whose gateway is gone."""
    client = Client(asked.get("choice_count", 1))
    worker = await view.worker("slow")
    call = worker.Run(view.request(**asked, retention=KEPT))
    await client.read(call, num_tokens)
    await kill_worker(view, "slow")
    call.cancel()
    return client


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"choice_count": 2, "sampling": {"temperature": 1.0}},
        {"sampling": {"temperature": 1.5, "mirostat": generation_pb.MirostatOptions(tau=3)}},
    ],
    ids=["greedy", "choices", "mirostat"],
)
async def test_a_client_gets_the_rest_though_its_worker_and_its_gateway_died(
    start_host, view_of, fields
):
    view = await view_of(start_host(*SMALL_PAGES, *SMALL_STEPS, *ON_DISK, *JOURNAL, load="slow"))
    asked = {"model": "slow", "text": TEXT, "max_output_tokens": 300, **fields}
    num_choices = fields.get("choice_count", 1)
    worker = await view.worker("slow")
    call = worker.Run(view.request(**asked, caller={"tenant": "other"}))
    wanted = await Client(num_choices).read(call)

    client = await broken_off(view, 40, **asked)
    worker = await view.worker("slow")
    found = await worker.FindStream(client.question())
    assert [len(each.token_ids) for each in found.run.continuation.choices] == [
        len(each) for each in client.tokens
    ]
    found.run.request.model = "slow"
    await client.read(worker.Run(found.run))

    assert client.ended == set(range(num_choices))
    assert [len(each) for each in client.tokens] == [len(each) for each in wanted.tokens]
    assert client.usage.output_tokens == wanted.usage.output_tokens
    if not fields:  # rounding rarely decides where nothing is drawn
        assert client.texts == wanted.texts


@pytest.mark.parametrize("caller", [{"principal": "eve"}, {"tenant": "other"}], ids=str)
async def test_nobody_else_gets_it(start_host, view_of, caller):
    view = await view_of(start_host(*JOURNAL, load="slow"))
    client = await broken_off(view, 5, model="slow", text=TEXT, max_output_tokens=600)
    worker = await view.worker("slow")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worker.FindStream(client.question(**caller))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert (await worker.FindStream(client.question())).run.request.text == TEXT


async def test_what_ended_before_the_death_is_not_found(start_host, view_of):
    host = start_host(*JOURNAL, load="slow")
    view = await view_of(host)
    asked = {"model": "slow", "text": TEXT, "max_output_tokens": 8}
    client = Client()
    worker = await view.worker("slow")
    await client.read(worker.Run(view.request(**asked, retention=KEPT)))
    [journal] = (host.home / "journal" / "0").glob("*.journal")

    async def is_empty():
        return journal.exists() and journal.stat().st_size < 100

    await wait_until_async(is_empty, timeout_s=20, what="an empty journal")
    await kill_worker(view, "slow")
    worker = await view.worker("slow")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worker.FindStream(client.question())
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_what_is_on_disk_is_told_and_given_up_on_order(start_host, view_of):
    view = await view_of(start_host(*SMALL_PAGES, *ON_DISK, *JOURNAL, load="slow"))
    client = await broken_off(view, 40, model="slow", text=TEXT, max_output_tokens=600)
    worker = await view.worker("slow")
    told = (await worker.GetCheckpoints(worker_pb.GetCheckpointsRequest(model="slow"))).checkpoints
    assert told.journal_state == checkpoints_pb.JOURNAL_STATE_WRITTEN
    assert told.page_count >= 6
    [request] = told.requests
    assert (request.request_id, request.tenant, request.principal) == ("req-1", "default", "alice")
    assert request.state == checkpoints_pb.REQUEST_STATE_RECOVERABLE
    assert 0 < request.output_tokens < 600

    order = worker_pb.PruneCheckpointsRequest(model="slow")
    pruned = await worker.PruneCheckpoints(order)
    assert (pruned.dropped_request_count, pruned.dropped_page_count) == (1, told.page_count)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worker.FindStream(client.question())
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    told = (await worker.GetCheckpoints(worker_pb.GetCheckpointsRequest(model="slow"))).checkpoints
    assert (told.request_count, told.page_count) == (0, 0)


@pytest.mark.parametrize("damage", ["missing", "rubbish", "in the way"])
async def test_with_a_useless_journal_requests_are_served_all_the_same(
    start_host, view_of, tmp_path, damage
):
    folder = tmp_path / "journals"
    flags = (*JOURNAL, "--journal.directory", str(folder))
    view = await view_of(start_host(*flags, load="slow"))
    client = await broken_off(view, 5, model="slow", text=TEXT, max_output_tokens=600)
    [journal] = (folder / "0").glob("*.journal")
    match damage:
        case "missing":
            shutil.rmtree(folder)
        case "rubbish":
            journal.write_bytes(b"rubbish" * 100)
        case "in the way":
            shutil.rmtree(folder)
            folder.write_text("no folder")
    await kill_worker(view, "slow")
    worker = await view.worker("slow")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worker.FindStream(client.question())
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    again = await view.run(worker="slow", model="slow", max_output_tokens=4)
    assert again[-1].event.HasField("completed")


async def test_without_pages_on_disk_it_is_computed_again(start_host, view_of):
    view = await view_of(start_host(*SMALL_PAGES, load="slow"))
    continuation, _ = await begin_and_kill(view, 20, text=TEXT)
    answers = await view.run(
        worker="slow", model="slow", text=TEXT, max_output_tokens=40, continuation=continuation
    )
    assert answers[-1].event.completed.usage.output_tokens == 40
    assert (await view.stats("slow")).prefix_hit_tokens_total == 0
