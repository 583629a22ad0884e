from caravan.engine.v1 import worker_stats_pb2 as pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_engine.domain.kv_numbers import DiskStats, KvSnapshot, KvUnit, MoveTimes, StoredPages
from caravan_engine.domain.model_facts import DeviceMemory
from caravan_engine.rpc.convert_stats import WorkerFacts, to_stats
from caravan_engine.runtime.handover_arrival import ArrivalNumbers
from caravan_engine.runtime.retained_streams import KeptNumbers
from caravan_engine.runtime.stats import Distribution, EngineStats, Gauges

KV = KvSnapshot(
    unit=KvUnit.PAGES,
    page_size=256,
    num_used_cells=700,
    num_computing_cells=300,
    highest_used_cell=900,
    num_seated=2,
    stored=StoredPages(
        num_idle=2,
        num_host=3,
        num_host_bytes=4000,
        num_host_tokens=50,
        host_budget_bytes=6000,
        num_cell_evictions=7,
        num_host_evictions=8,
        num_coalesced=9,
        num_damaged=10,
    ),
    moves=MoveTimes(num_exports=1, exported_tokens=2, export_s=3.0, num_imports=4, relocate_s=0.5),
)
DISK = DiskStats(
    is_usable=True,
    num_pages=1,
    num_bytes=2,
    budget_bytes=3,
    num_writing=4,
    num_reading=5,
    num_erasing=6,
    num_written=7,
    num_read=8,
    num_failed_reads=9,
    lost={"displaced": 10},
)
FACTS = WorkerFacts(
    worker_id="w",
    model="tiny",
    replica_index=0,
    start_time_ms=1_000,
    context_tokens=64,
    cpu_layer_count=2,
    gpu_layer_count=0,
)


def snapshot():
    stats = EngineStats(num_seats=4, num_cells=128)
    stats.refused("queue_full")
    stats.rested(Gauges(num_running=2, num_paused=1, num_parked=3, kv=KV))
    return stats.snapshot(waiting={10: 2, 50: 1}, now=1.0)


def test_numbers_arrive_under_their_names():
    stats = to_stats(snapshot(), FACTS, resident_bytes=77)

    assert (stats.worker_id, stats.model, stats.start_time.seconds) == ("w", "tiny", 1)
    assert (stats.seat_count, stats.cell_count, stats.waiting_count) == (4, 128, 3)
    assert (stats.resident_bytes, stats.cpu_layer_count, stats.context_tokens) == (77, 2, 64)
    assert [(each.outcome, each.count) for each in stats.outcomes] == [("queue_full", 1)]


def test_every_distribution_has_its_kind_and_one_bucket_more_than_bounds():
    stats = to_stats(snapshot(), FACTS, resident_bytes=0)

    kinds = {histogram.kind for histogram in stats.histograms}
    assert len(kinds) == len(Distribution)
    assert kinds | {pb.HISTOGRAM_KIND_UNSPECIFIED} == set(pb.HistogramKind.values())
    for histogram in stats.histograms:
        assert len(histogram.bucket_counts) == len(histogram.bounds) + 1


def test_memory_arrives_under_its_names():
    stats = to_stats(snapshot(), FACTS, resident_bytes=0)

    assert [(each.priority, each.count) for each in stats.waiting_counts] == [(10, 2), (50, 1)]
    assert (stats.running_count, stats.paused_count, stats.parked_count) == (2, 1, 3)
    assert (stats.kv_unit, stats.page_token_count) == (model_pb.KV_UNIT_PAGES, 256)
    assert (stats.used_cell_count, stats.idle_cell_count, stats.highest_used_cell) == (
        300,
        400,
        900,
    )
    assert (stats.cell_page_count, stats.idle_page_count) == (3, 2)
    assert (stats.host_page_count, stats.host_page_bytes, stats.host_page_token_count) == (
        3,
        4000,
        50,
    )
    assert (stats.host_budget_bytes, stats.disk_budget_bytes) == (6000, 0)
    assert (stats.cell_evictions_total, stats.host_evictions_total) == (7, 8)
    assert (stats.pages_coalesced_total, stats.pages_damaged_total) == (9, 10)
    moves = {each.kind: each for each in stats.page_moves}
    export = moves[pb.PAGE_MOVE_KIND_EXPORT]
    assert (export.count, export.token_count, export.seconds) == (1, 2, 3.0)
    assert moves[pb.PAGE_MOVE_KIND_RESTORE].count == 4
    assert moves[pb.PAGE_MOVE_KIND_RELOCATE].seconds == 0.5


def test_the_disk_arrives_under_its_names():
    stats = to_stats(snapshot(), FACTS, resident_bytes=0, disk=DISK)

    assert (stats.disk_page_count, stats.disk_page_bytes, stats.disk_budget_bytes) == (1, 2, 3)
    assert (stats.disk_writes_pending, stats.disk_reads_pending) == (4, 5)
    assert (stats.disk_writes_total, stats.disk_reads_total) == (7, 8)
    assert stats.disk_read_failures_total == 9
    assert [(each.cause, each.count) for each in stats.disk_losses] == [("displaced", 10)]


def test_requests_of_other_workers_arrive_under_their_names():
    arrivals = ArrivalNumbers(num_taken=5, num_recomputed=2)
    stats = to_stats(snapshot(), FACTS, resident_bytes=0, arrivals=arrivals)

    assert (stats.handovers_taken_total, stats.handovers_recomputed_total) == (5, 2)


def test_kept_streams_and_devices_arrive_under_their_names():
    stats = to_stats(
        snapshot(),
        FACTS,
        resident_bytes=0,
        streams=KeptNumbers(num_streams=5, num_unread=2, num_bytes=700),
        devices=[DeviceMemory("CUDA0", used_bytes=1, total_bytes=2)],
    )

    assert (stats.kept_stream_count, stats.unread_stream_count, stats.kept_stream_bytes) == (
        5,
        2,
        700,
    )
    [device] = stats.devices
    assert (device.device, device.used_bytes, device.total_bytes) == ("CUDA0", 1, 2)
