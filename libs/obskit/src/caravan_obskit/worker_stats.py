"""From `caravan.engine.v1.WorkerStats` to plain numbers."""

from bisect import bisect_left
from collections.abc import Sequence

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_obskit.kv_numbers import KvCounters, KvGauges, PageMove
from caravan_obskit.worker_numbers import (
    BOUNDS,
    Distribution,
    Measure,
    Outcome,
    WorkerCounters,
    WorkerGauges,
    WorkerNumbers,
)

_OUTCOMES = {
    "end_of_text": Outcome.STOP,
    "stop_string": Outcome.STOP,
    "content_filter": Outcome.STOP,
    "length": Outcome.LENGTH,
    "cancelled": Outcome.ABORT,
    "deadline_exceeded": Outcome.ABORT,
    "reader_stalled": Outcome.ABORT,
}
_MEASURES = {
    stats_pb.HistogramKind.Value(f"HISTOGRAM_KIND_{measure.name}"): measure for measure in Measure
}
_MOVES = {stats_pb.PageMoveKind.Value(f"PAGE_MOVE_KIND_{move.name}"): move for move in PageMove}
_UNITS = {model_pb.KV_UNIT_PAGES: "pages", model_pb.KV_UNIT_SEQUENCES: "sequences"}


def numbers_of(stats: stats_pb.WorkerStats) -> WorkerNumbers:
    """Converts a snapshot.

    Histograms with other bounds than ours (another version) go into the next wider bucket;
    unknown kinds are left out, unknown outcomes count as errors.
    """
    return WorkerNumbers(
        worker_id=stats.worker_id,
        model=stats.model,
        replica_index=stats.replica_index,
        counters=_counters_of(stats),
        gauges=_gauges_of(stats),
        device_bytes={device.device: device.used_bytes for device in stats.devices},
    )


def _counters_of(stats: stats_pb.WorkerStats) -> WorkerCounters:
    outcomes = dict.fromkeys(Outcome, 0)
    for entry in stats.outcomes:
        outcomes[_OUTCOMES.get(entry.outcome, Outcome.ERROR)] += entry.count
    distributions = {measure: Distribution.empty(measure) for measure in Measure}
    for histogram in stats.histograms:
        if (measure := _MEASURES.get(histogram.kind)) is not None:
            distributions[measure] += _distribution_of(histogram, BOUNDS[measure])
    return WorkerCounters(
        input_tokens=stats.input_tokens_total,
        output_tokens=stats.output_tokens_total,
        prefix_query_tokens=stats.prefix_query_tokens_total,
        prefix_hit_tokens=stats.prefix_hit_tokens_total,
        steps=stats.steps_total,
        layers_evicted=stats.layers_evicted_total,
        handovers_taken=stats.handovers_taken_total,
        handovers_recomputed=stats.handovers_recomputed_total,
        outcomes=outcomes,
        distributions=distributions,
        kv=_kv_counters_of(stats),
    )


def _kv_counters_of(stats: stats_pb.WorkerStats) -> KvCounters:
    moves = {_MOVES[each.kind]: each for each in stats.page_moves if each.kind in _MOVES}
    nothing = stats_pb.PageMoveCount()
    return KvCounters(
        parkings=stats.parkings_total,
        moves={move: moves.get(move, nothing).count for move in PageMove},
        move_seconds={move: moves.get(move, nothing).seconds for move in PageMove},
        cell_evictions=stats.cell_evictions_total,
        host_evictions=stats.host_evictions_total,
        coalesced=stats.pages_coalesced_total,
        damaged=stats.pages_damaged_total,
        disk_reads=stats.disk_reads_total,
        disk_read_failures=stats.disk_read_failures_total,
        disk_writes=stats.disk_writes_total,
        disk_losses={each.cause: each.count for each in stats.disk_losses},
    )


def _distribution_of(histogram: stats_pb.Histogram, bounds: Sequence[float]) -> Distribution:
    counts = [0] * (len(bounds) + 1)
    uppers = [*histogram.bounds, float("inf")]
    for upper, count in zip(uppers, histogram.bucket_counts, strict=False):
        counts[bisect_left(bounds, upper)] += count
    return Distribution(counts=tuple(counts), total=histogram.sum)


def _gauges_of(stats: stats_pb.WorkerStats) -> WorkerGauges:
    return WorkerGauges(
        running_count=stats.running_count,
        waiting_count=stats.waiting_count,
        paused_count=stats.paused_count,
        seat_count=stats.seat_count,
        used_cell_count=stats.used_cell_count,
        cell_count=stats.cell_count,
        output_tokens_per_second=stats.output_tokens_per_second,
        resident_bytes=stats.resident_bytes,
        gpu_layer_count=stats.gpu_layer_count,
        cpu_layer_count=stats.cpu_layer_count,
        kept_stream_count=stats.kept_stream_count,
        unread_stream_count=stats.unread_stream_count,
        kept_stream_bytes=stats.kept_stream_bytes,
        kv=_kv_gauges_of(stats),
    )


def _kv_gauges_of(stats: stats_pb.WorkerStats) -> KvGauges:
    unit = _UNITS.get(stats.kv_unit)
    return KvGauges(
        parked_count=stats.parked_count,
        waiting={str(each.priority): each.count for each in stats.waiting_counts},
        units={} if unit is None else {unit: 1},
        page_tokens=stats.page_token_count,
        idle_cells=stats.idle_cell_count,
        highest_used_cell=stats.highest_used_cell,
        cell_pages=stats.cell_page_count,
        idle_pages=stats.idle_page_count,
        host_pages=stats.host_page_count,
        host_bytes=stats.host_page_bytes,
        disk_pages=stats.disk_page_count,
        disk_bytes=stats.disk_page_bytes,
        disk_reads_pending=stats.disk_reads_pending,
        disk_writes_pending=stats.disk_writes_pending,
    )
