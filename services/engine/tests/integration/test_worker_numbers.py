"""What a worker says of itself, against what was made to happen in it."""

import asyncio
import json

from caravan.engine.v1 import host_service_pb2 as host_pb
from caravan.engine.v1 import host_service_pb2_grpc as host_grpc
from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_testkit.waiting import wait_until_async

PATIENCE_S = 60
PAGE = 64
PROMPT = [10 + number % 80 for number in range(200)]
SLOW = {"model": "slow", "worker": "slow"}
KEYS = {"token", "kv_pages_gpu", "kv_pages_cpu", "kv_pages_evicted", "prefetch_pending"}


def moves(stats, kind):
    return next(each for each in stats.page_moves if each.kind == kind)


async def stats_when(view, condition, model="tiny"):
    """Waits until the numbers satisfy `condition`, and returns them."""
    found = None

    async def holds():
        nonlocal found
        found = await view.stats(model)
        return condition(found)

    await wait_until_async(holds, timeout_s=PATIENCE_S, what="the numbers")
    return found


async def generate(view, tokens, **fields):
    return await view.run(token_ids={"ids": tokens}, ignore_eos=True, **fields)


async def test_status_shows_what_is_shared_and_where_pages_lie(start_host, view_of):
    host = start_host("--kv.page-size", str(PAGE))
    view = await view_of(host)
    assert (await view.model()).details.kv_unit == model_pb.KV_UNIT_PAGES

    await generate(view, PROMPT)
    stats = await stats_when(view, lambda each: each.running_count == 0 and each.host_page_count)
    assert (stats.kv_unit, stats.page_token_count) == (model_pb.KV_UNIT_PAGES, PAGE)
    assert (stats.prefix_query_tokens_total, stats.prefix_hit_tokens_total) == (200, 0)
    # All but the last token were computed, and lie in pages now, each once.
    num_tokens = 200 + 8 - 1
    assert stats.host_page_token_count == num_tokens
    assert stats.host_page_count == -(-num_tokens // PAGE)
    export = moves(stats, stats_pb.PAGE_MOVE_KIND_EXPORT)
    assert (export.count, export.token_count) == (stats.host_page_count, num_tokens)
    assert export.seconds > 0
    bytes_per_token = stats.host_page_bytes / num_tokens
    assert 0 < stats.host_page_bytes <= stats.host_budget_bytes
    assert (stats.used_cell_count, stats.idle_cell_count, stats.cell_page_count) == (0, 0, 0)

    events = await generate(view, PROMPT)
    cached = next(
        each.event.started.cached_tokens for each in events if each.event.HasField("started")
    )
    stats = await stats_when(view, lambda each: each.prefix_query_tokens_total == 400)
    assert stats.prefix_hit_tokens_total == cached == 199
    restored = moves(stats, stats_pb.PAGE_MOVE_KIND_RESTORE)
    assert (restored.count, restored.token_count) == (4, num_tokens)
    assert stats.host_page_token_count == num_tokens  # the same text
    assert stats.host_page_bytes == bytes_per_token * num_tokens
    assert (stats.parkings_total, stats.pages_damaged_total) == (0, 0)


async def test_status_shows_who_waits_and_who_was_parked(start_host, view_of):
    # Without ageing, and with room for everybody, so that only priorities decide.
    host = start_host(
        *("--context.seats", "2", "--context.cells", "4096", "--queue.ageing-s-per-level", "0"),
        load="slow",
    )
    view = await view_of(host)

    async def begin(priority):
        return await view.begin(
            caller={"priority": priority}, max_output_tokens=3000, ignore_eos=True
        )

    low = [await begin(1), await begin(1)]
    stats = await stats_when(view, lambda each: each.running_count == 2, "slow")
    assert stats.used_cell_count > 0
    assert stats.highest_used_cell >= stats.used_cell_count
    assert (stats.seat_count, stats.parked_count) == (2, 0)

    high = await begin(50)
    stats = await stats_when(view, lambda each: each.parked_count == 1, "slow")
    assert (stats.running_count, stats.waiting_count, stats.parkings_total) == (2, 0, 1)
    assert stats.host_page_count > 0  # of whoever was parked

    waiting = [asyncio.create_task(begin(priority)) for priority in (1, 1, 0)]
    stats = await stats_when(view, lambda each: each.waiting_count == 3, "slow")
    counts = [(each.priority, each.count) for each in stats.waiting_counts]
    assert counts == [(0, 1), (1, 2)]

    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for call in (*low, high):
        call.cancel()
    stats = await stats_when(view, lambda each: not each.running_count + each.parked_count, "slow")
    assert (stats.waiting_count, stats.used_cell_count) == (0, 0)


async def test_status_shows_what_is_spilled_to_disk_and_read_again(start_host, view_of, tmp_path):
    # Host memory for one text of 4 kB a token; the rest goes to disk. Computing takes so long with
    # this model that reading pays.
    log = tmp_path / "{worker}.jsonl"
    host = start_host(
        *("--kv.page-size", str(PAGE), "--kv.host-budget-bytes", "1000000"),
        *("--kv.disk-budget-bytes", "100000000", "--metrics-file", str(log)),
        *("--kv.checkpoints", "false"),
        load="slow",
    )
    view = await view_of(host)
    texts = [[first + number for number in range(200)] for first in range(300, 550, 50)]
    for text in texts:
        await generate(view, text, **SLOW)
    stats = await stats_when(
        view, lambda each: each.disk_page_count and not each.disk_writes_pending, "slow"
    )
    assert stats.host_evictions_total == stats.disk_writes_total == stats.disk_page_count
    assert stats.host_page_bytes <= stats.host_budget_bytes == 1_000_000
    assert stats.disk_page_bytes > 0
    files = [path for path in (host.home / "pages").rglob("*") if path.is_file()]
    assert len([path for path in files if path.stat().st_size > 1000]) == stats.disk_page_count

    events = await generate(view, texts[0], **SLOW)
    cached = next(
        each.event.started.cached_tokens for each in events if each.event.HasField("started")
    )
    stats = await stats_when(view, lambda each: each.prefix_query_tokens_total == 1200, "slow")
    assert stats.prefix_hit_tokens_total == cached > 0
    assert stats.disk_reads_total > 0
    assert (stats.disk_read_failures_total, stats.disk_reads_pending) == (0, 0)

    lines = (tmp_path / "slow-0.jsonl").read_text().splitlines()
    numbers = [json.loads(line) for line in lines]
    assert numbers, "an eviction brings a line"
    assert set(numbers[0]) > KEYS
    assert numbers[-1]["kv_pages_evicted"] > 0


async def test_a_gateway_gets_the_numbers_of_all_workers_from_the_host(start_host, view_of):
    host = start_host("--no-paged-kv", "--models.replicas", "2")
    view = await view_of(host)
    stub = host_grpc.HostServiceStub(view.channel)
    workers = []

    async def all_are_there():
        answer = await stub.GetWorkerStats(host_pb.GetWorkerStatsRequest(), timeout=5)
        workers[:] = answer.workers
        return len(workers) == 2

    await wait_until_async(all_are_there, timeout_s=PATIENCE_S, what="both workers")
    assert sorted(each.replica_index for each in workers) == [0, 1]
    assert {each.kv_unit for each in workers} == {model_pb.KV_UNIT_SEQUENCES}
    assert (await view.model()).details.kv_unit == model_pb.KV_UNIT_SEQUENCES
    said = [each for each in host.log_records() if "whole sequences" in each.get("message", "")]
    assert {each["cause"] for each in said} == {"paging is off"}


async def test_status_shows_what_is_kept_of_streams_and_whether_somebody_reads_them(
    start_host, view_of
):
    view = await view_of(start_host(load="slow"))
    kept = worker_pb.Retention(usage_id="usage-1", resumable=True)
    call = await view.begin(retention=kept)

    stats = await stats_when(view, lambda each: each.kept_stream_bytes, "slow")
    assert (stats.kept_stream_count, stats.unread_stream_count) == (1, 0)
    call.cancel()
    stats = await stats_when(view, lambda each: each.unread_stream_count, "slow")
    assert (stats.kept_stream_count, stats.unread_stream_count) == (1, 1)
    assert stats.running_count == 1  # it goes on

    caller = worker_pb.Caller(tenant="default", principal="alice", request_id="req-1")
    worker = await view.worker("slow")
    await worker.StopStream(worker_pb.StopStreamRequest(caller=caller))
    stats = await stats_when(view, lambda each: not each.unread_stream_count, "slow")
    assert stats.kept_stream_count <= 1
    text = await asyncio.to_thread(view.host.fetch, "/metrics")
    assert 'caravan_worker_kept_streams{model="slow",reader="gone",replica="0"}' in text
