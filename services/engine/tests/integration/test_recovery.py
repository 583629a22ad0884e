"""What a killed worker had computed is there again when it is back."""

import contextlib
import os
import signal

import grpc
import pytest

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb

TEXT = "There was a town by the sea whose people kept lists of everything that came to pass. " * 3
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
    view = await view_of(start_host(*SMALL_PAGES, *ON_DISK, *flags, load="slow"))
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
    view = await view_of(start_host(*SMALL_PAGES, *ON_DISK, "--models.replicas", "2", load="slow"))
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


async def test_without_pages_on_disk_it_is_computed_again(start_host, view_of):
    view = await view_of(start_host(*SMALL_PAGES, load="slow"))
    continuation, _ = await begin_and_kill(view, 20, text=TEXT)
    answers = await view.run(
        worker="slow", model="slow", text=TEXT, max_output_tokens=40, continuation=continuation
    )
    assert answers[-1].event.completed.usage.output_tokens == 40
    assert (await view.stats("slow")).prefix_hit_tokens_total == 0
