"""The metrics of the KV memory: `llama_kv_*`, and our own beside them.

Places are called as dashboards know them: `gpu` is the context's own cells, on a CPU too.
"""

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from caravan_obskit.kv_numbers import KvGauges
from caravan_obskit.metric_rows import Rows, counter, gauge, split_counter, split_gauge
from caravan_obskit.worker_numbers import WorkerGauges


def kv_families(*, by_model: Rows, summed: Rows) -> Iterator[Metric]:
    """Yields the families; `summed` are those rows that have no label of their own in sums."""
    yield from _llama_pages(summed)
    yield from _gauges(by_model)
    yield from _counters(by_model)
    yield from _disk(by_model)


def _llama_pages(rows: Rows) -> Iterator[Metric]:
    yield gauge(
        "llama_kv_pages_gpu",
        "Full pages that the cells in use would make, on a CPU too.",
        rows,
        lambda gauges: gauges.kv.cell_pages,
    )
    yield gauge(
        "llama_kv_pages_cpu", "Pages in host memory.", rows, lambda gauges: gauges.kv.host_pages
    )
    yield split_gauge(
        "llama_kv_cache_pages",
        "Pages by place: gpu (the cells, on a CPU too), cpu (host memory), disk.",
        rows,
        "location",
        lambda gauges: _by_location(gauges.kv),
    )


def _gauges(rows: Rows) -> Iterator[Metric]:
    yield gauge(
        "caravan_worker_parked_requests",
        "Requests that gave up their seats and go on later.",
        rows,
        lambda gauges: gauges.kv.parked_count,
    )
    yield split_gauge(
        "caravan_worker_waiting_requests",
        "Requests in the queue by the priority that they came with.",
        rows,
        "priority",
        lambda gauges: gauges.kv.waiting,
    )
    yield split_gauge(
        "caravan_worker_cells",
        "Cells by who holds them: running sequences, idle pages, nobody.",
        rows,
        "held_by",
        _cells,
    )
    yield gauge(
        "caravan_worker_highest_used_cell",
        "Cells up to the highest one in use; of several workers, the highest.",
        rows,
        lambda gauges: gauges.kv.highest_used_cell,
    )
    yield gauge(
        "caravan_worker_idle_pages",
        "Pages that stay in cells while nobody uses them.",
        rows,
        lambda gauges: gauges.kv.idle_pages,
    )
    yield split_gauge(
        "caravan_worker_page_bytes",
        "Bytes of pages outside the cells.",
        rows,
        "location",
        lambda gauges: {"cpu": gauges.kv.host_bytes, "disk": gauges.kv.disk_bytes},
    )
    yield split_gauge(
        "caravan_worker_kv_unit",
        "Workers by what memory is kept by: pages or whole sequences.",
        rows,
        "unit",
        lambda gauges: gauges.kv.units,
    )


def _counters(rows: Rows) -> Iterator[Metric]:
    yield split_counter(
        "caravan_worker_page_moves_total",
        "Pages copied out of cells, into cells, and stretches moved within them.",
        rows,
        "move",
        lambda counters: counters.kv.moves,
    )
    yield split_counter(
        "caravan_worker_page_move_seconds_total",
        "Seconds of the decode thread that copying took.",
        rows,
        "move",
        lambda counters: counters.kv.move_seconds,
    )
    yield split_counter(
        "caravan_worker_page_evictions_total",
        "Pages that had to leave cells (gpu) or host memory (cpu).",
        rows,
        "location",
        lambda counters: {"gpu": counters.kv.cell_evictions, "cpu": counters.kv.host_evictions},
    )
    yield counter(
        "caravan_worker_pages_coalesced_total",
        "Pages that became part of a longer one.",
        rows,
        lambda counters: counters.kv.coalesced,
    )
    yield counter(
        "caravan_worker_pages_damaged_total",
        "Pages that could not be restored and were dropped.",
        rows,
        lambda counters: counters.kv.damaged,
    )


def _disk(rows: Rows) -> Iterator[Metric]:
    yield gauge(
        "caravan_worker_disk_reads_pending",
        "Pages that are being read from disk, or wait for it.",
        rows,
        lambda gauges: gauges.kv.disk_reads_pending,
    )
    yield gauge(
        "caravan_worker_disk_writes_pending",
        "Pages that are being written to disk, or wait for it.",
        rows,
        lambda gauges: gauges.kv.disk_writes_pending,
    )
    yield split_counter(
        "caravan_worker_disk_reads_total",
        "Reads of pages from disk, by whether they brought one.",
        rows,
        "outcome",
        lambda counters: {
            "completed": counters.kv.disk_reads,
            "failed": counters.kv.disk_read_failures,
        },
    )
    yield counter(
        "caravan_worker_disk_writes_total",
        "Pages written to disk.",
        rows,
        lambda counters: counters.kv.disk_writes,
    )
    yield split_counter(
        "caravan_worker_disk_losses_total",
        "Pages that are not on disk, or no longer, by cause.",
        rows,
        "cause",
        lambda counters: counters.kv.disk_losses,
    )


def _by_location(kv: KvGauges) -> Mapping[str, float]:
    return {"gpu": kv.cell_pages, "cpu": kv.host_pages, "disk": kv.disk_pages}


def _cells(gauges: WorkerGauges) -> Mapping[str, float]:
    used, idle = gauges.used_cell_count, gauges.kv.idle_cells
    free = gauges.cell_count - used - idle
    return {"running": used, "idle": idle, "nobody": free}
