"""What a scraper really reads on the ops port, held to the rules of `promtool check metrics`."""

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_testkit.waiting import wait_until_async

MUST_HAVE_SERIES = (
    *("llama_tokens_generated_total", "llama_prompt_tokens_total", "llama_tokens_per_second"),
    *("llama_requests_total", "llama_requests_active", "llama_request_latency_ms"),
    *("llama_request_latency_avg_ms", "llama_vram_used_bytes", "llama_ram_used_bytes"),
    *("llama_gpu_layers", "llama_cpu_layers", "llm_active_models", "llm_requests_per_second"),
    *("llm_response_time_histogram", "llm_cache_hit_rate", "vllm:num_requests_running"),
    *("vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:prefix_cache_queries_total"),
    *("vllm:prefix_cache_hits_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total"),
    *("vllm:request_success_total", "vllm:cache_config_info"),
    *("vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"),
    *("vllm:request_time_per_output_token_seconds", "vllm:e2e_request_latency_seconds"),
    *("vllm:request_queue_time_seconds", "vllm:request_inference_time_seconds"),
    *("vllm:request_prefill_time_seconds", "vllm:request_decode_time_seconds"),
    *("llama_layers_evicted_total", "caravan_worker_kept_streams"),
    "caravan_worker_handovers_total",
    *("llama_kv_pages_gpu", "llama_kv_pages_cpu", "llama_kv_cache_pages"),
    *("vllm:num_preemptions_total", "caravan_worker_cells", "caravan_worker_page_moves_total"),
    *("caravan_usage_records_total", "caravan_usage_tokens_total", "caravan_usage_ingest_seconds"),
)


@pytest.fixture
async def families(gateway, engine, batch, report, worker, scrape) -> dict[str, Metric]:
    """The families after a batch of usage and while a worker reports."""
    await gateway.IngestUsage(batch("a", "b"))
    call = engine.StreamWorkerStats()
    device = stats_pb.DeviceMemory(device="CUDA0", used_bytes=1, total_bytes=2)
    await call.write(report(worker(cell_count=64, devices=[device])))
    text = ""

    async def is_there() -> bool:
        nonlocal text
        text = "\n".join(line for line in await scrape() if line[:1] in "#lvc")
        return "llm_active_models 1.0" in text

    await wait_until_async(is_there, timeout_s=5, what="the worker")
    call.cancel()
    named = {}
    for family in text_string_to_metric_families(text + "\n"):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name not in named, "each family comes once"
        named[name] = family
    return named


async def test_every_claimed_name_has_series(families):
    without = [n for n in MUST_HAVE_SERIES if n not in families or not families[n].samples]
    assert without == []


async def test_families_are_typed_explained_and_named_by_their_type(families):
    for name, family in families.items():
        assert family.type in ("counter", "gauge", "histogram"), name
        assert family.documentation, name
        assert name.endswith("_total") == (family.type == "counter"), name


async def test_no_series_comes_twice(families):
    for name, family in families.items():
        series = [(s.name, frozenset(s.labels.items())) for s in family.samples]
        assert len(series) == len(set(series)), name


async def test_histograms_are_complete_and_rise(families):
    for name, family in families.items():
        if family.type != "histogram":
            continue
        groups: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
        counts: dict[frozenset[tuple[str, str]], float] = {}
        for sample in family.samples:
            labels = frozenset((k, v) for k, v in sample.labels.items() if k != "le")
            if sample.name.endswith("_bucket"):
                bucket = (float(sample.labels["le"]), sample.value)
                groups.setdefault(labels, []).append(bucket)
            elif sample.name.endswith("_count"):
                counts[labels] = sample.value
        assert groups, name
        for labels, buckets in groups.items():
            assert buckets == sorted(buckets), name
            assert buckets[-1] == (float("inf"), counts[labels]), name
