from caravan.engine.v1 import worker_stats_pb2 as pb
from caravan_engine.rpc.convert_stats import WorkerFacts, to_stats
from caravan_engine.runtime.stats import Distribution, EngineStats

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
    return stats.snapshot(num_waiting=3, now=1.0)


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
