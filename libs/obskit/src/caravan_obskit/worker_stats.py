"""From `caravan.engine.v1.WorkerStats` to plain numbers."""

from bisect import bisect_left
from collections.abc import Sequence

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
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
        outcomes=outcomes,
        distributions=distributions,
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
    )
