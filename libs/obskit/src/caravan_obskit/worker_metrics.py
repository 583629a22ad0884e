"""The `llama_*`, `vllm:*` and `llm_*` metrics, made from the numbers of workers.

Two views with the same names: one series per model and replica (an engine's ops port) and sums
over workers (telemetry's). It keeps no state: every scrape reads its source again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_obskit.kv_metrics import kv_families
from caravan_obskit.metric_rows import (
    Row,
    Rows,
    counter,
    gauge,
    histogram,
    ratio,
    split_counter,
    split_gauge,
)
from caravan_obskit.worker_numbers import (
    Measure,
    Outcome,
    SystemNumbers,
    WorkerCounters,
    WorkerGauges,
    WorkerNumbers,
)
from caravan_obskit.worker_stats import numbers_of

_SUMMED_ENGINE = "0"
"""vLLM's label for "the engine" where there is only one; the sums use it."""

_STATUS_OUTCOMES = {
    "success": (Outcome.STOP, Outcome.LENGTH),
    "cancelled": (Outcome.ABORT,),
    "error": (Outcome.ERROR,),
}
_FINISHED_REASONS = (Outcome.STOP, Outcome.LENGTH, Outcome.ABORT)

_VLLM_HISTOGRAMS = (
    (Measure.TIME_TO_FIRST_TOKEN_SECONDS, "time_to_first_token", "from arrival to first token"),
    (Measure.INTER_TOKEN_LATENCY_SECONDS, "inter_token_latency", "between two tokens"),
    (
        Measure.TIME_PER_OUTPUT_TOKEN_SECONDS,
        "request_time_per_output_token",
        "per output token after the first, by request",
    ),
    (Measure.END_TO_END_SECONDS, "e2e_request_latency", "from arrival to the end"),
    (Measure.QUEUE_SECONDS, "request_queue_time", "from arrival to the first computation"),
    (Measure.INFERENCE_SECONDS, "request_inference_time", "from first computation to the end"),
    (Measure.PREFILL_SECONDS, "request_prefill_time", "from first computation to first token"),
    (Measure.DECODE_SECONDS, "request_decode_time", "from first token to the end"),
)


class ReplicaCollector(Collector):
    """One series per model and replica; for the ops port of an engine host.

    `source` is called at every scrape, on the scraping thread, and returns the live workers; of
    two for the same replica the later one counts.
    """

    def __init__(self, source: Callable[[], Iterable[stats_pb.WorkerStats]]) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Yields every family; without workers the families have no series."""
        workers = {(stats.model, stats.replica_index): stats for stats in self._source()}
        return _replica_families([numbers_of(stats) for stats in workers.values()])

    def describe(self) -> Iterator[Metric]:
        """Yields the same families without series, so that registering asks no source."""
        return _replica_families([])


class SystemCollector(Collector):
    """Sums over workers, and the system-wide metrics; for telemetry's ops port.

    `source` is called at every scrape, on the scraping thread.
    """

    def __init__(self, source: Callable[[], SystemNumbers]) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Yields every family; before the first worker those by model have no series."""
        return _system_families(self._source())

    def describe(self) -> Iterator[Metric]:
        """Yields the same families without series, so that registering asks no source."""
        return _system_families(SystemNumbers({}, {}, 0.0))


def _replica_families(workers: Sequence[WorkerNumbers]) -> Iterator[Metric]:
    rows = Rows(
        ("model", "replica"),
        [
            Row({"model": w.model, "replica": str(w.replica_index)}, w.counters, w.gauges)
            for w in workers
        ],
    )
    yield from _llama_families(by_model=rows, summed=rows)
    yield _vram_family(_used_bytes(workers))
    yield from _vllm_families(_vllm_rows(rows))


def _used_bytes(workers: Iterable[WorkerNumbers]) -> Mapping[str, int]:
    used: dict[str, int] = {}
    for worker in workers:
        for device, size in worker.device_bytes.items():
            used[device] = max(size, used.get(device, 0))
    return used


def _system_families(numbers: SystemNumbers) -> Iterator[Metric]:
    by_model = Rows(
        ("model",),
        [Row({"model": name}, m.counters, m.gauges) for name, m in numbers.models.items()],
    )
    total = _total_of(by_model.rows)
    yield from _llama_families(by_model=by_model, summed=Rows((), [total]))
    yield _vram_family(numbers.device_bytes)
    yield from _vllm_families(_vllm_rows(by_model))
    yield from _llm_families(numbers, total.counters)


def _total_of(rows: Iterable[Row]) -> Row:
    counters = reduce(add, (row.counters for row in rows), WorkerCounters())
    gauges = reduce(add, (row.gauges for row in rows if row.gauges is not None), WorkerGauges())
    return Row({}, counters, gauges)


def _vllm_rows(rows: Rows) -> Rows:
    return Rows(
        ("model_name", "engine"),
        [
            Row(
                {
                    "model_name": row.labels["model"],
                    "engine": row.labels.get("replica", _SUMMED_ENGINE),
                },
                row.counters,
                row.gauges,
            )
            for row in rows.rows
        ],
    )


def _llama_families(*, by_model: Rows, summed: Rows) -> Iterator[Metric]:
    yield counter("llama_tokens_generated_total", "Generated tokens.", by_model, _output_tokens)
    yield counter("llama_prompt_tokens_total", "Input tokens.", by_model, _input_tokens)
    yield _llama_requests(by_model)
    yield gauge(
        "llama_tokens_per_second",
        "Generated tokens per second over the last ten seconds.",
        by_model,
        lambda gauges: gauges.output_tokens_per_second,
    )
    yield gauge(
        "llama_requests_active",
        "Requests that were taken in and have not ended, queued ones included.",
        by_model,
        lambda gauges: gauges.active_count,
    )
    yield histogram(
        "llama_request_latency_ms",
        "Milliseconds from a request's arrival at the worker to its end.",
        summed,
        Measure.REQUEST_LATENCY_MS,
    )
    yield _latency_average(summed)
    yield from _llama_placement(summed)
    yield from kv_families(by_model=by_model, summed=summed)
    yield from _caravan_families(by_model)


def _llama_requests(rows: Rows) -> Metric:
    family = CounterMetricFamily(
        "llama_requests_total", "Requests that ended, by status.", labels=(*rows.names, "status")
    )
    for row in rows.rows:
        for status, outcomes in _STATUS_OUTCOMES.items():
            count = sum(row.counters.outcomes[outcome] for outcome in outcomes)
            family.add_metric((*row.labels.values(), status), count)
    return family


def _latency_average(rows: Rows) -> Metric:
    family = GaugeMetricFamily(
        "llama_request_latency_avg_ms",
        "Mean of llama_request_latency_ms since the start; 0 before the first request.",
        labels=rows.names,
    )
    for row in rows.rows:
        seen = row.counters.distributions[Measure.REQUEST_LATENCY_MS]
        family.add_metric(tuple(row.labels.values()), ratio(seen.total, seen.count))
    return family


def _llama_placement(rows: Rows) -> Iterator[Metric]:
    yield gauge(
        "llama_ram_used_bytes",
        "Resident memory of the worker processes; pages they share count in each.",
        rows,
        lambda gauges: gauges.resident_bytes,
    )
    yield gauge("llama_gpu_layers", "Layers on GPUs.", rows, lambda g: g.gpu_layer_count)
    yield gauge("llama_cpu_layers", "Layers on CPUs.", rows, lambda g: g.cpu_layer_count)
    yield counter(
        "llama_layers_evicted_total",
        "Layers that had to leave their device; 0 as long as they stay where they were loaded.",
        rows,
        lambda counters: counters.layers_evicted,
    )


def _vram_family(used_bytes: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(
        "llama_vram_used_bytes",
        "Bytes in use on devices that hold a part of a model.",
        labels=("device",),
    )
    for device, size in used_bytes.items():
        family.add_metric((device,), size)
    return family


def _caravan_families(rows: Rows) -> Iterator[Metric]:
    yield counter(
        "caravan_worker_steps_total",
        "Steps that computed something.",
        rows,
        lambda counters: counters.steps,
    )
    yield gauge(
        "caravan_worker_paused_sequences",
        "Sequences that wait for their client to read.",
        rows,
        lambda gauges: gauges.paused_count,
    )
    yield gauge(
        "caravan_worker_seats",
        "Most sequences that can decode together.",
        rows,
        lambda gauges: gauges.seat_count,
    )
    yield split_gauge(
        "caravan_worker_kept_streams",
        "Generations kept for whoever comes back, or counted until they are accounted for.",
        rows,
        "reader",
        _streams,
    )
    yield gauge(
        "caravan_worker_kept_stream_bytes",
        "Bytes that are kept of them.",
        rows,
        lambda gauges: gauges.kept_stream_bytes,
    )
    yield split_counter(
        "caravan_worker_handovers_total",
        "Requests that another worker began, by what became of its memory of them.",
        rows,
        "outcome",
        lambda c: {"taken": c.handovers_taken, "recomputed": c.handovers_recomputed},
    )


def _streams(gauges: WorkerGauges) -> Mapping[str, float]:
    gone = gauges.unread_stream_count
    return {"here": gauges.kept_stream_count - gone, "gone": gone}


def _vllm_families(rows: Rows) -> Iterator[Metric]:
    yield from _vllm_gauges(rows)
    yield from _vllm_counters(rows)
    for measure, name, what in _VLLM_HISTOGRAMS:
        yield histogram(f"vllm:{name}_seconds", f"Seconds {what}.", rows, measure)


def _vllm_gauges(rows: Rows) -> Iterator[Metric]:
    yield gauge(
        "vllm:num_requests_running",
        "Sequences that decode together now.",
        rows,
        lambda gauges: gauges.decoding_count,
    )
    yield gauge(
        "vllm:num_requests_waiting",
        "Requests in the queue, parked ones not included.",
        rows,
        lambda gauges: gauges.waiting_count,
    )
    yield gauge(
        "vllm:kv_cache_usage_perc",
        "Share of the cells that running sequences use, 0 to 1; idle pages make way.",
        rows,
        lambda gauges: ratio(gauges.used_cell_count, gauges.cell_count),
    )
    yield _cache_config(rows)


def _cache_config(rows: Rows) -> Metric:
    family = GaugeMetricFamily(
        "vllm:cache_config_info",
        "Size of the KV memory; a block is a page, or a cell where there are none.",
        labels=(*rows.names, "block_size", "num_gpu_blocks"),
    )
    for row in rows.rows:
        if row.gauges is not None:
            size = row.gauges.kv.page_tokens or 1
            blocks = str(row.gauges.cell_count // size)
            family.add_metric((*row.labels.values(), str(size), blocks), 1)
    return family


def _vllm_counters(rows: Rows) -> Iterator[Metric]:
    yield counter(
        "vllm:prefix_cache_queries_total",
        "Tokens looked up in the prefix cache.",
        rows,
        lambda counters: counters.prefix_query_tokens,
    )
    yield counter(
        "vllm:prefix_cache_hits_total",
        "Tokens found in the prefix cache.",
        rows,
        lambda counters: counters.prefix_hit_tokens,
    )
    yield counter(
        "vllm:num_preemptions_total",
        "How often a request was parked: gave up its seat to go on later.",
        rows,
        lambda counters: counters.kv.parkings,
    )
    yield counter("vllm:prompt_tokens_total", "Input tokens.", rows, _input_tokens)
    yield counter("vllm:generation_tokens_total", "Generated tokens.", rows, _output_tokens)
    yield _request_success(rows)


def _request_success(rows: Rows) -> Metric:
    family = CounterMetricFamily(
        "vllm:request_success_total",
        "Requests that ended without an error of ours, by reason.",
        labels=(*rows.names, "finished_reason"),
    )
    for row in rows.rows:
        for reason in _FINISHED_REASONS:
            family.add_metric((*row.labels.values(), reason.value), row.counters.outcomes[reason])
    return family


def _llm_families(numbers: SystemNumbers, total: WorkerCounters) -> Iterator[Metric]:
    live = sum(1 for model in numbers.models.values() if model.gauges is not None)
    yield GaugeMetricFamily("llm_active_models", "Models that a live worker serves.", value=live)
    yield GaugeMetricFamily(
        "llm_requests_per_second",
        "Requests that ended per second over the last ten seconds.",
        value=numbers.requests_per_second,
    )
    yield histogram(
        "llm_response_time_histogram",
        "Seconds from a request's arrival at the worker to its end, over all models.",
        Rows((), [Row({}, total, None)]),
        Measure.END_TO_END_SECONDS,
    )
    yield GaugeMetricFamily(
        "llm_cache_hit_rate",
        "Share of looked-up tokens that the prefix cache had, 0 to 1, since the start.",
        value=ratio(total.prefix_hit_tokens, total.prefix_query_tokens),
    )


def _output_tokens(counters: WorkerCounters) -> int:
    return counters.output_tokens


def _input_tokens(counters: WorkerCounters) -> int:
    return counters.input_tokens
