"""The numbers of a worker as one JSON object, in the names of the structured metrics log."""

from datetime import datetime

from caravan.engine.v1 import worker_stats_pb2 as stats_pb

_MB = 1_000_000


def metrics_of(
    stats: stats_pb.WorkerStats, *, at: datetime, memory_pressure: float
) -> dict[str, object]:
    """Returns the object; what there is none of (layers evicted, memory of a device) is 0.

    Args:
        stats: of one moment.
        at: that moment, in UTC.
        memory_pressure: share of the machine's memory that is taken, 0 to 1.
    """
    vram_used = sum(device.used_bytes for device in stats.devices)
    vram_total = sum(device.total_bytes for device in stats.devices)
    return {
        "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
        "token": _num_computed(stats),
        "prompt_tokens": stats.input_tokens_total,
        "generated_tokens": stats.output_tokens_total,
        "gpu_layers_active": stats.gpu_layer_count,
        "cpu_layers_active": stats.cpu_layer_count,
        "layers_evicted": stats.layers_evicted_total,
        "layers_loaded": stats.gpu_layer_count + stats.cpu_layer_count,
        "kv_pages_gpu": stats.cell_page_count,
        "kv_pages_cpu": stats.host_page_count,
        "kv_pages_evicted": stats.cell_evictions_total + stats.host_evictions_total,
        "kv_pages_prefetched": stats.disk_reads_total,
        "vram_used_mb": _megabytes(vram_used),
        "vram_total_mb": _megabytes(vram_total),
        "ram_used_mb": _megabytes(stats.resident_bytes),
        "gpu_memory_pressure": _share(vram_used, vram_total),
        "cpu_memory_pressure": round(memory_pressure, 3),
        "tokens_per_sec": round(stats.output_tokens_per_second, 2),
        "avg_tokens_per_sec": round(_share(stats.output_tokens_total, stats.step_seconds_total), 2),
        "prefetch_pending": stats.disk_reads_pending,
        "prefetch_completed": stats.disk_reads_total,
        "prefetch_failed": stats.disk_read_failures_total,
    }


def _num_computed(stats: stats_pb.WorkerStats) -> int:
    """Tokens that went through the model: input that was not found in the cache, and output."""
    new_input = stats.input_tokens_total - stats.prefix_hit_tokens_total
    return new_input + stats.output_tokens_total


def _megabytes(size_bytes: int) -> float:
    return round(size_bytes / _MB, 1)


def _share(part: float, whole: float) -> float:
    return round(part / whole, 3) if whole else 0.0
