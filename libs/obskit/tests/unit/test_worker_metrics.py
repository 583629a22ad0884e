"""The exposed text is compared with the published names, labels and buckets, spelled out here."""

import pytest
from exposition import histogram, live, parse, replicas, system, value, worker
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_obskit.kv_numbers import KvCounters, KvGauges, PageMove
from caravan_obskit.worker_metrics import ReplicaCollector, SystemCollector
from caravan_obskit.worker_numbers import (
    BOUNDS,
    Measure,
    ModelNumbers,
    SystemNumbers,
    WorkerCounters,
    WorkerGauges,
)
from caravan_obskit.worker_stats import numbers_of

FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20),
    *(40, 80, 160, 640, 2560),
)


TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20),
    *(40, 80),
)


REQUEST = (
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920),
    7680,
)


LATENCY_MS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000)


# name -> (type, labels of the sums beside `le`)
MODEL = {"model"}


VLLM = {"model_name", "engine"}


SYSTEM_FAMILIES: dict[str, tuple[str, set[str]]] = {
    "llama_tokens_generated_total": ("counter", MODEL),
    "llama_prompt_tokens_total": ("counter", MODEL),
    "llama_tokens_per_second": ("gauge", MODEL),
    "llama_requests_total": ("counter", MODEL | {"status"}),
    "llama_requests_active": ("gauge", MODEL),
    "llama_request_latency_ms": ("histogram", set()),
    "llama_request_latency_avg_ms": ("gauge", set()),
    "llama_vram_used_bytes": ("gauge", {"device"}),
    "llama_ram_used_bytes": ("gauge", set()),
    "llama_gpu_layers": ("gauge", set()),
    "llama_cpu_layers": ("gauge", set()),
    "llama_layers_evicted_total": ("counter", set()),
    "llm_active_models": ("gauge", set()),
    "llm_requests_per_second": ("gauge", set()),
    "llm_response_time_histogram": ("histogram", set()),
    "llm_cache_hit_rate": ("gauge", set()),
    "vllm:num_requests_running": ("gauge", VLLM),
    "vllm:num_requests_waiting": ("gauge", VLLM),
    "vllm:kv_cache_usage_perc": ("gauge", VLLM),
    "vllm:prefix_cache_queries_total": ("counter", VLLM),
    "vllm:prefix_cache_hits_total": ("counter", VLLM),
    "vllm:prompt_tokens_total": ("counter", VLLM),
    "vllm:generation_tokens_total": ("counter", VLLM),
    "vllm:request_success_total": ("counter", VLLM | {"finished_reason"}),
    "vllm:cache_config_info": ("gauge", VLLM | {"block_size", "num_gpu_blocks"}),
    "vllm:time_to_first_token_seconds": ("histogram", VLLM),
    "vllm:inter_token_latency_seconds": ("histogram", VLLM),
    "vllm:request_time_per_output_token_seconds": ("histogram", VLLM),
    "vllm:e2e_request_latency_seconds": ("histogram", VLLM),
    "vllm:request_queue_time_seconds": ("histogram", VLLM),
    "vllm:request_inference_time_seconds": ("histogram", VLLM),
    "vllm:request_prefill_time_seconds": ("histogram", VLLM),
    "vllm:request_decode_time_seconds": ("histogram", VLLM),
    "caravan_worker_steps_total": ("counter", MODEL),
    "caravan_worker_paused_sequences": ("gauge", MODEL),
    "caravan_worker_seats": ("gauge", MODEL),
    "caravan_worker_kept_streams": ("gauge", MODEL | {"reader"}),
    "caravan_worker_kept_stream_bytes": ("gauge", MODEL),
    "caravan_worker_handovers_total": ("counter", MODEL | {"outcome"}),
    "llama_kv_pages_gpu": ("gauge", set()),
    "llama_kv_pages_cpu": ("gauge", set()),
    "llama_kv_cache_pages": ("gauge", {"location"}),
    "vllm:num_preemptions_total": ("counter", VLLM),
    "caravan_worker_parked_requests": ("gauge", MODEL),
    "caravan_worker_waiting_requests": ("gauge", MODEL | {"priority"}),
    "caravan_worker_cells": ("gauge", MODEL | {"held_by"}),
    "caravan_worker_highest_used_cell": ("gauge", MODEL),
    "caravan_worker_idle_pages": ("gauge", MODEL),
    "caravan_worker_page_bytes": ("gauge", MODEL | {"location"}),
    "caravan_worker_kv_unit": ("gauge", MODEL | {"unit"}),
    "caravan_worker_page_moves_total": ("counter", MODEL | {"move"}),
    "caravan_worker_page_move_seconds_total": ("counter", MODEL | {"move"}),
    "caravan_worker_page_evictions_total": ("counter", MODEL | {"location"}),
    "caravan_worker_pages_coalesced_total": ("counter", MODEL),
    "caravan_worker_pages_damaged_total": ("counter", MODEL),
    "caravan_worker_disk_reads_pending": ("gauge", MODEL),
    "caravan_worker_disk_writes_pending": ("gauge", MODEL),
    "caravan_worker_disk_reads_total": ("counter", MODEL | {"outcome"}),
    "caravan_worker_disk_writes_total": ("counter", MODEL),
    "caravan_worker_disk_losses_total": ("counter", MODEL | {"cause"}),
}


BUCKETS = {
    "llama_request_latency_ms": LATENCY_MS,
    "llm_response_time_histogram": REQUEST,
    "vllm:time_to_first_token_seconds": FIRST_TOKEN,
    "vllm:inter_token_latency_seconds": TOKEN,
    "vllm:request_time_per_output_token_seconds": TOKEN,
    "vllm:e2e_request_latency_seconds": REQUEST,
    "vllm:request_queue_time_seconds": REQUEST,
    "vllm:request_inference_time_seconds": REQUEST,
    "vllm:request_prefill_time_seconds": REQUEST,
    "vllm:request_decode_time_seconds": REQUEST,
}


def test_sums_have_exactly_the_published_names_types_and_labels():
    families = parse(system(bundled=live()))

    assert {
        name: (family.type, {label for s in family.samples for label in s.labels} - {"le"})
        for name, family in families.items()
    } == SYSTEM_FAMILIES


def test_replicas_have_the_same_names_with_model_and_replica():
    families = parse(replicas(worker()))

    by_replica = {name for name in SYSTEM_FAMILIES if not name.startswith("llm_")}
    assert set(families) == by_replica
    for name, family in families.items():
        labels = {label for s in family.samples for label in s.labels} - {"le"}
        _, summed = SYSTEM_FAMILIES[name]
        if name == "llama_vram_used_bytes" or name.startswith("vllm:"):
            assert labels == summed
        else:
            assert labels == summed | {"model", "replica"}


@pytest.mark.parametrize(
    "text", [system(bundled=live()), replicas(worker())], ids=["sums", "replicas"]
)
def test_histograms_have_exactly_the_published_buckets(text: str):
    for name, family in parse(text).items():
        bounds = [s.labels["le"] for s in family.samples if s.name.endswith("_bucket")]
        if family.type == "histogram":
            assert bounds.pop() == "+Inf"
        assert tuple(map(float, bounds)) == BUCKETS.get(name, ()), name


def test_a_model_has_a_token_line_before_its_first_token():
    line = 'llama_tokens_generated_total{model="bundled"} 0.0'
    text = system(bundled=ModelNumbers(WorkerCounters(), WorkerGauges()))
    assert line in text.splitlines()


def test_no_worker_gives_families_without_series_and_zeros_without_labels():
    text = system()
    assert value(text, "llm_active_models") == 0
    assert value(text, "llama_ram_used_bytes") == 0
    assert value(text, "llama_request_latency_ms_count") == 0
    assert "llama_tokens_generated_total{" not in text
    assert "# TYPE llama_tokens_generated_total counter" in text


def test_registering_asks_no_source():
    def fail() -> SystemNumbers:
        raise AssertionError("asked at registration")

    CollectorRegistry().register(SystemCollector(fail))
    CollectorRegistry(auto_describe=True).register(ReplicaCollector(lambda: [worker()]))


def test_outcomes_become_statuses_and_finished_reasons():
    text = replicas(worker())
    for status, count in {"success": 6, "cancelled": 4, "error": 5}.items():
        labels = {"model": "bundled", "replica": "0", "status": status}
        assert value(text, "llama_requests_total", **labels) == count
    for reason, count in {"stop": 3, "length": 3, "abort": 4}.items():
        labels = {"model_name": "bundled", "engine": "0", "finished_reason": reason}
        assert value(text, "vllm:request_success_total", **labels) == count


def test_statuses_are_there_before_anything_ended():
    text = replicas(stats_pb.WorkerStats(model="bundled"))
    for status in ("success", "cancelled", "error"):
        labels = {"model": "bundled", "replica": "0", "status": status}
        assert value(text, "llama_requests_total", **labels) == 0


def test_histograms_are_cumulated():
    counts = [0] * len(BOUNDS[Measure.REQUEST_LATENCY_MS]) + [1]
    counts[2] = 4
    kind = stats_pb.HISTOGRAM_KIND_REQUEST_LATENCY_MS
    stats = worker()
    stats.histograms.append(histogram(kind, BOUNDS[Measure.REQUEST_LATENCY_MS], counts))

    text = replicas(stats)

    labels = {"model": "bundled", "replica": "0"}
    bucket = "llama_request_latency_ms_bucket"
    assert value(text, bucket, le="2.0", **labels) == 0
    assert value(text, bucket, le="5.0", **labels) == 4
    assert value(text, bucket, le="60000.0", **labels) == 4
    assert value(text, bucket, le="+Inf", **labels) == 5
    assert value(text, "llama_request_latency_ms_count", **labels) == 5
    assert value(text, "llama_request_latency_ms_sum", **labels) == 4.5
    assert value(text, "llama_request_latency_avg_ms", **labels) == pytest.approx(0.9)


def test_foreign_bounds_go_into_the_next_wider_bucket():
    kind = stats_pb.HISTOGRAM_KIND_REQUEST_LATENCY_MS
    stats = worker()
    stats.histograms.append(histogram(kind, [3.0, 5.0, 99_999.0], [1, 2, 4, 8]))

    seen = numbers_of(stats).counters.distributions[Measure.REQUEST_LATENCY_MS]

    assert seen.counts[2] == 3  # 3 lies within (2, 5]
    assert seen.counts[-1] == 12
    assert seen.count == 15


def test_unknown_outcomes_count_as_errors_and_unknown_histograms_are_left_out():
    stats = worker()
    stats.outcomes.add(outcome="of another version", count=1)
    stats.histograms.add(kind=99, bucket_counts=[1])

    text = replicas(stats)

    labels = {"model": "bundled", "replica": "0", "status": "error"}
    assert value(text, "llama_requests_total", **labels) == 6


def test_every_measure_has_its_kind_and_its_bounds():
    kinds = {name.removeprefix("HISTOGRAM_KIND_") for name, _ in stats_pb.HistogramKind.items()}
    assert kinds - {"UNSPECIFIED"} == {measure.name for measure in Measure}
    assert set(BOUNDS) == set(Measure)
    assert all(list(bounds) == sorted(set(bounds)) for bounds in BOUNDS.values())


def test_a_device_that_two_replicas_share_counts_once():
    text = replicas(worker(), worker(replica=1))
    assert value(text, "llama_vram_used_bytes", device="CUDA0") == 1_000


def test_of_two_processes_for_one_replica_the_later_is_shown():
    text = replicas(worker(), worker(output_tokens_total=8))
    labels = {"model": "bundled", "replica": "0"}
    assert value(text, "llama_tokens_generated_total", **labels) == 8


def test_active_requests_are_running_waiting_and_parked():
    text = replicas(worker(running_count=3, waiting_count=2, paused_count=1, parked_count=4))
    labels = {"model": "bundled", "replica": "0"}
    assert value(text, "llama_requests_active", **labels) == 9
    assert value(text, "caravan_worker_paused_sequences", **labels) == 1
    assert value(text, "caravan_worker_parked_requests", **labels) == 4
    vllm = {"model_name": "bundled", "engine": "0"}
    assert value(text, "vllm:num_requests_running", **vllm) == 2  # paused ones compute nothing
    assert value(text, "vllm:num_requests_waiting", **vllm) == 2


def test_sums_over_models_have_no_labels():
    text = system(a=live(cpu_layer_count=4), b=live(cpu_layer_count=6))
    assert value(text, "llama_cpu_layers") == 10
    assert value(text, "llm_active_models") == 2
    assert value(text, "llm_requests_per_second") == 2.5
    assert value(text, "llama_vram_used_bytes", device="CUDA0") == 9


def test_a_model_without_workers_keeps_its_counters_and_loses_its_gauges():
    text = system(gone=ModelNumbers(WorkerCounters(output_tokens=5), None))
    assert value(text, "llama_tokens_generated_total", model="gone") == 5
    assert value(text, "llama_tokens_per_second", model="gone") is None
    assert value(text, "vllm:kv_cache_usage_perc", model_name="gone", engine="0") is None
    assert value(text, "llm_active_models") == 0


def test_cell_usage_and_hit_rate_are_shares():
    counters = WorkerCounters(prefix_query_tokens=8, prefix_hit_tokens=2)
    gauges = WorkerGauges(used_cell_count=512, cell_count=2048)
    text = system(bundled=ModelNumbers(counters, gauges))
    vllm = {"model_name": "bundled", "engine": "0"}
    assert value(text, "vllm:kv_cache_usage_perc", **vllm) == 0.25
    assert value(text, "llm_cache_hit_rate") == 0.25


@pytest.mark.parametrize(("page_tokens", "blocks"), [(0, ("1", "2048")), (256, ("256", "8"))])
def test_a_block_is_a_page_or_else_a_cell(page_tokens, blocks):
    text = replicas(worker(page_token_count=page_tokens, cell_count=2048))
    size, number = blocks
    config = {"block_size": size, "num_gpu_blocks": number}
    name = "vllm:cache_config_info"
    assert value(text, name, model_name="bundled", engine="0", **config) == 1


def test_a_hostile_model_name_is_escaped():
    name = 'a"b\\c\nd'
    assert value(replicas(worker(name)), "llama_prompt_tokens_total", model=name, replica="0") == 0


def test_the_exposed_text_is_tidy():
    for family in text_string_to_metric_families(system(bundled=live())):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            ends_in_total = sample.name.endswith("_total")
            assert ends_in_total == (family.type == "counter"), sample.name


def test_pages_are_told_by_place():
    stats = worker(cell_page_count=3, host_page_count=4, disk_page_count=5, host_page_bytes=600)
    text = replicas(stats)
    labels = {"model": "bundled", "replica": "0"}
    assert value(text, "llama_kv_pages_gpu", **labels) == 3
    assert value(text, "llama_kv_pages_cpu", **labels) == 4
    for location, count in {"gpu": 3, "cpu": 4, "disk": 5}.items():
        assert value(text, "llama_kv_cache_pages", location=location, **labels) == count
    assert value(text, "caravan_worker_page_bytes", location="cpu", **labels) == 600


def test_kept_streams_are_told_by_whether_somebody_reads_them():
    text = replicas(worker(kept_stream_count=5, unread_stream_count=2, kept_stream_bytes=700))
    labels = {"model": "bundled", "replica": "0"}
    for reader, count in {"here": 3, "gone": 2}.items():
        assert value(text, "caravan_worker_kept_streams", reader=reader, **labels) == count
    assert value(text, "caravan_worker_kept_stream_bytes", **labels) == 700


def test_requests_of_other_workers_are_told_by_whether_their_memory_came_with_them():
    text = replicas(worker(handovers_taken_total=5, handovers_recomputed_total=2))
    labels = {"model": "bundled", "replica": "0"}
    for outcome, count in {"taken": 5, "recomputed": 2}.items():
        assert value(text, "caravan_worker_handovers_total", outcome=outcome, **labels) == count


def test_layers_are_told_by_place_and_evictions_are_counted():
    text = replicas(worker(gpu_layer_count=3, cpu_layer_count=5, layers_evicted_total=2))
    labels = {"model": "bundled", "replica": "0"}
    assert value(text, "llama_gpu_layers", **labels) == 3
    assert value(text, "llama_cpu_layers", **labels) == 5
    assert value(text, "llama_layers_evicted_total", **labels) == 2


def test_cells_are_told_by_who_holds_them():
    text = replicas(worker(used_cell_count=30, idle_cell_count=20, cell_count=100))
    labels = {"model": "bundled", "replica": "0"}
    for held_by, count in {"running": 30, "idle": 20, "nobody": 50}.items():
        assert value(text, "caravan_worker_cells", held_by=held_by, **labels) == count


def test_moves_of_pages_are_told_by_kind_and_unknown_kinds_are_left_out():
    stats = worker(parkings_total=6)
    stats.page_moves.add(kind=stats_pb.PAGE_MOVE_KIND_RESTORE, count=2, seconds=0.5)
    stats.page_moves.add(kind=99, count=7)
    text = replicas(stats)
    labels = {"model": "bundled", "replica": "0"}
    for move, count in {"export": 0, "restore": 2, "relocate": 0}.items():
        assert value(text, "caravan_worker_page_moves_total", move=move, **labels) == count
    seconds = value(text, "caravan_worker_page_move_seconds_total", move="restore", **labels)
    assert seconds == 0.5
    assert value(text, "vllm:num_preemptions_total", model_name="bundled", engine="0") == 6


def test_numbers_of_memory_are_added_but_for_those_that_are_of_one_worker():
    one = KvGauges(page_tokens=256, highest_used_cell=7, host_pages=1, waiting={"10": 1})
    two = KvGauges(page_tokens=256, highest_used_cell=9, host_pages=2, waiting={"10": 1, "50": 3})
    both = one + two
    assert (both.page_tokens, both.highest_used_cell, both.host_pages) == (256, 9, 3)
    assert both.waiting == {"10": 2, "50": 3}
    moves = KvCounters(parkings=1, moves={"export": 2}) + KvCounters(parkings=2)
    assert (moves.parkings, moves.moves["export"]) == (3, 2)


def test_every_move_has_its_kind():
    kinds = {name.removeprefix("PAGE_MOVE_KIND_") for name, _ in stats_pb.PageMoveKind.items()}
    assert kinds - {"UNSPECIFIED"} == {move.name for move in PageMove}
