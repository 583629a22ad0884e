"""The worker's numbers: from the runtime's snapshot to the proto."""

from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from caravan.engine.v1 import worker_stats_pb2 as pb
from caravan_engine.runtime.stats import Distribution, HistogramSnapshot, StatsSnapshot

_KINDS = {
    Distribution.TIME_TO_FIRST_TOKEN_S: pb.HISTOGRAM_KIND_TIME_TO_FIRST_TOKEN_SECONDS,
    Distribution.INTER_TOKEN_LATENCY_S: pb.HISTOGRAM_KIND_INTER_TOKEN_LATENCY_SECONDS,
    Distribution.TIME_PER_OUTPUT_TOKEN_S: pb.HISTOGRAM_KIND_TIME_PER_OUTPUT_TOKEN_SECONDS,
    Distribution.END_TO_END_S: pb.HISTOGRAM_KIND_END_TO_END_SECONDS,
    Distribution.QUEUE_S: pb.HISTOGRAM_KIND_QUEUE_SECONDS,
    Distribution.INFERENCE_S: pb.HISTOGRAM_KIND_INFERENCE_SECONDS,
    Distribution.PREFILL_S: pb.HISTOGRAM_KIND_PREFILL_SECONDS,
    Distribution.DECODE_S: pb.HISTOGRAM_KIND_DECODE_SECONDS,
    Distribution.REQUEST_LATENCY_MS: pb.HISTOGRAM_KIND_REQUEST_LATENCY_MS,
}


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What stays the same as long as the worker lives."""

    worker_id: str
    model: str
    replica_index: int
    start_time_ms: int
    context_tokens: int
    cpu_layer_count: int
    gpu_layer_count: int


def to_stats(snapshot: StatsSnapshot, facts: WorkerFacts, *, resident_bytes: int) -> pb.WorkerStats:
    """Converts the numbers of one moment."""
    start_time = Timestamp()
    start_time.FromMilliseconds(facts.start_time_ms)
    return pb.WorkerStats(
        worker_id=facts.worker_id,
        model=facts.model,
        replica_index=facts.replica_index,
        start_time=start_time,
        input_tokens_total=snapshot.input_tokens,
        output_tokens_total=snapshot.output_tokens,
        outcomes=[
            pb.OutcomeCount(outcome=outcome, count=count)
            for outcome, count in snapshot.outcomes.items()
        ],
        steps_total=snapshot.num_steps,
        step_running=snapshot.is_stepping,
        running_count=snapshot.gauges.num_running,
        waiting_count=snapshot.num_waiting,
        paused_count=snapshot.gauges.num_paused,
        seat_count=snapshot.num_seats,
        used_cell_count=snapshot.gauges.num_used_cells,
        cell_count=snapshot.num_cells,
        output_tokens_per_second=snapshot.output_tokens_per_s,
        resident_bytes=resident_bytes,
        gpu_layer_count=facts.gpu_layer_count,
        cpu_layer_count=facts.cpu_layer_count,
        histograms=[
            _to_histogram(kind, histogram) for kind, histogram in snapshot.histograms.items()
        ],
        context_tokens=facts.context_tokens,
    )


def _to_histogram(kind: Distribution, histogram: HistogramSnapshot) -> pb.Histogram:
    return pb.Histogram(
        kind=_KINDS[kind],
        bounds=histogram.bounds,
        bucket_counts=histogram.counts,
        sum=histogram.total,
    )
