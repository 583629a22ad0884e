"""Listing, loading and unloading on a real host."""

import asyncio
import shutil

import grpc
import pytest

from caravan.model.v1 import model_pb2
from caravan.model.v1 import model_service_pb2 as service_pb
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until_async

READY, UNLOADED = model_pb2.MODEL_STATE_READY, model_pb2.MODEL_STATE_UNLOADED
FAILED = model_pb2.MODEL_STATE_FAILED


async def failure(call):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return error_details(failed.value), failed.value.code()


@pytest.fixture
async def own(start_host, view_of):
    """A gateway's view of a host of this test alone."""
    return await view_of(start_host())


async def test_models_of_the_folder_and_the_bundled_one_are_listed_in_pages(own):
    first = await own.models.ListModels(service_pb.ListModelsRequest(page_size=2))
    second = await own.models.ListModels(
        service_pb.ListModelsRequest(page_size=2, page_token=first.next_page_token)
    )

    names = [model.name for model in (*first.models, *second.models)]
    assert names == ["bundled", "slow", "tiny"]
    assert second.next_page_token == ""


async def test_a_ready_model_shows_what_it_is_and_its_process(own):
    model = await own.model()

    assert model.state == READY
    assert (model.details.architecture, model.details.vocabulary_size) == ("llama", 1000)
    assert (model.details.context_tokens, model.details.cell_count) == (1024, 1024)
    assert own.host.is_alive(model.replicas[0].process_id)


async def test_an_unknown_model_is_not_found(own):
    details, code = await failure(own.model("nope"))

    assert (details.reason, code) == ("MODEL_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_loading_streams_its_phases(own):
    steps = await own.load("slow")

    phases = list(dict.fromkeys(step.phase for step in steps))
    assert phases == sorted(phases)
    assert phases[0] == service_pb.LOAD_PHASE_VERIFYING
    assert phases[-1] == service_pb.LOAD_PHASE_READY
    assert steps[-1].model.state == READY
    assert 0 < steps[-1].needed_bytes <= steps[-1].budget_bytes


async def test_callers_that_load_together_share_one_worker(own):
    outcomes = await asyncio.gather(*(own.load("slow") for _ in range(4)))

    assert {steps[-1].phase for steps in outcomes} == {service_pb.LOAD_PHASE_READY}
    started = 'caravan_engine_worker_starts_total{model="slow"} 1.0'
    assert started in await asyncio.to_thread(own.host.fetch, "/metrics")


async def test_a_load_goes_on_when_its_caller_leaves(own):
    call = own.models.LoadModel(service_pb.LoadModelRequest(model="slow"))
    await anext(aiter(call))
    call.cancel()

    assert (await own.endpoint("slow")).model == "slow"


async def test_unloading_waits_for_what_runs(own):
    await own.load("slow")
    call = await own.begin(max_output_tokens=60)
    unload = asyncio.create_task(own.unload("slow", 20_000))
    kinds = [answer.event.WhichOneof("event") async for answer in call]
    answer = await unload

    assert kinds[-1] == "completed"
    assert (answer.model.state, answer.ended_request_count) == (UNLOADED, 0)


async def test_unloading_ends_what_outlasts_its_time(own):
    await own.load("slow")
    pid = (await own.model("slow")).replicas[0].process_id
    call = await own.begin()
    unload = asyncio.create_task(own.unload("slow", 200))

    async def rest():
        return [answer async for answer in call]

    details, code = await failure(rest())
    assert (details.reason, code) == ("DRAINING", grpc.StatusCode.UNAVAILABLE)
    assert details.retry_after_s is not None
    assert (await unload).ended_request_count == 1
    assert not own.host.is_alive(pid)


async def test_a_worker_that_drains_takes_nothing_new(own):
    await own.load("slow")
    worker = await own.worker("slow")
    call = await own.begin(max_output_tokens=300)
    unload = asyncio.create_task(own.unload("slow", 20_000))
    await own.picture(lambda picture: "slow" not in [end.model for end in picture.endpoints])

    async def drains():
        try:
            async for _ in worker.Run(own.request(model="slow", max_output_tokens=1)):
                pass
        except grpc.aio.AioRpcError as error:
            return error_details(error).reason == "DRAINING"
        return False

    await wait_until_async(drains, timeout_s=10, what="the worker to drain")
    call.cancel()
    await unload


async def test_a_truncated_file_fails_with_its_reason(own, slow_gguf):
    content = slow_gguf.read_bytes()
    (own.host.models / "cut.gguf").write_bytes(content[: len(content) // 2])

    details, code = await failure(own.load("cut"))

    assert details.reason == "MODEL_FILE_INVALID"
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    model = await own.model("cut")
    assert model.state == FAILED
    assert str(own.host.home) not in model.state_detail
    assert (await own.run())[-1].event.HasField("completed")


async def test_a_file_that_is_no_gguf_fails_with_its_reason(own):
    (own.host.models / "noise.gguf").write_bytes(b"hello" * 1000)

    details, _ = await failure(own.load("noise"))

    assert details.reason == "MODEL_FILE_INVALID"


async def test_a_file_that_leads_nowhere_is_listed_and_refused(own):
    (own.host.models / "gone.gguf").symlink_to(own.host.models / "nowhere")

    details, _ = await failure(own.load("gone"))

    assert details.reason == "MODEL_FILE_INVALID"
    assert (await own.model("gone")).state == FAILED


async def test_a_mended_file_can_be_loaded(own, slow_gguf):
    path = own.host.models / "mended.gguf"
    path.write_bytes(b"")
    await failure(own.load("mended"))
    shutil.copy(slow_gguf, path)

    assert (await own.load("mended"))[-1].model.state == READY


async def test_a_model_over_the_memory_budget_is_refused_with_both_sizes(start_host, view_of):
    host = start_host("--workers.memory-budget-bytes", str(120 * 2**20))
    view = await view_of(host)

    details, code = await failure(view.load("slow"))

    assert (details.reason, code) == ("MODEL_TOO_LARGE", grpc.StatusCode.FAILED_PRECONDITION)
    assert int(details.metadata["needed_bytes"]) > int(details.metadata["budget_bytes"])
    assert (await view.model("slow")).replicas == []


async def test_a_model_given_by_its_path_is_served_under_its_stem(start_host, view_of, slow_gguf):
    elsewhere = slow_gguf.with_name("my-model.gguf")
    shutil.copy(slow_gguf, elsewhere)
    view = await view_of(start_host("--model", str(elsewhere), load="tiny"))

    states = {model.name: model.state for model in (await view.picture()).models}
    assert (states["my-model"], states["tiny"]) == (READY, READY)


async def test_the_picture_follows_a_file_that_appears(start_host, view_of, slow_gguf):
    view = await view_of(start_host("--models.rescan-interval-s", "0.1"))
    watch = asyncio.create_task(
        view.picture(lambda picture: "late" in [model.name for model in picture.models])
    )
    await view.picture()
    shutil.copy(slow_gguf, view.host.models / "late.gguf")

    assert await watch


async def test_a_digest_is_remembered_over_a_restart(start_host, view_of):
    host = start_host()
    digest = (await (await view_of(host)).model()).digest
    host.stop()
    again = start_host(home=host.home, load="slow")

    assert (await (await view_of(again)).model()).digest == digest
