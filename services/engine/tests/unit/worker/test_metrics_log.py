import json
import logging
import stat
import threading
from datetime import UTC, datetime

import pytest

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_engine.config import MetricsSettings
from caravan_engine.worker.metrics_line import metrics_of
from caravan_engine.worker.metrics_log import MetricsLog, append_to, open_metrics_log

KEYS = (
    *("timestamp", "token", "prompt_tokens", "generated_tokens", "gpu_layers_active"),
    *("cpu_layers_active", "layers_evicted", "layers_loaded", "kv_pages_gpu", "kv_pages_cpu"),
    *("kv_pages_evicted", "kv_pages_prefetched", "vram_used_mb", "vram_total_mb", "ram_used_mb"),
    *("gpu_memory_pressure", "cpu_memory_pressure", "tokens_per_sec", "avg_tokens_per_sec"),
    *("prefetch_pending", "prefetch_completed", "prefetch_failed"),
)
AT = datetime(2026, 5, 4, 3, 2, 1, 60_700, tzinfo=UTC)
STATS = stats_pb.WorkerStats(
    input_tokens_total=100,
    prefix_hit_tokens_total=40,
    output_tokens_total=30,
    step_seconds_total=12,
    output_tokens_per_second=3.5,
    cpu_layer_count=4,
    cell_page_count=5,
    host_page_count=6,
    cell_evictions_total=7,
    host_evictions_total=8,
    disk_reads_pending=1,
    disk_reads_total=2,
    disk_read_failures_total=3,
    resident_bytes=50_000_000,
)


class Lines:
    """Takes lines on any thread, and lets a test wait for them."""

    def __init__(self, fault=None):
        self.lines = []
        self.fault = fault
        self._changed = threading.Condition()

    def __call__(self, line):
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()
        if self.fault:
            raise self.fault

    def wait_for(self, number):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.lines) >= number, timeout=10)


def test_an_object_has_exactly_the_known_keys_in_their_order():
    numbers = metrics_of(STATS, at=AT, memory_pressure=0.25)
    assert tuple(numbers) == KEYS


def test_numbers_are_those_of_the_worker():
    numbers = metrics_of(STATS, at=AT, memory_pressure=0.25)
    assert numbers["timestamp"] == "2026-05-04T03:02:01.060Z"
    assert (numbers["token"], numbers["prompt_tokens"], numbers["generated_tokens"]) == (
        90,
        100,
        30,
    )
    assert (numbers["kv_pages_gpu"], numbers["kv_pages_cpu"]) == (5, 6)
    assert (numbers["kv_pages_evicted"], numbers["kv_pages_prefetched"]) == (15, 2)
    assert (numbers["tokens_per_sec"], numbers["avg_tokens_per_sec"]) == (3.5, 2.5)
    assert (numbers["ram_used_mb"], numbers["cpu_memory_pressure"]) == (50.0, 0.25)
    assert [numbers[f"prefetch_{each}"] for each in ("pending", "completed", "failed")] == [1, 2, 3]
    assert (numbers["vram_used_mb"], numbers["gpu_memory_pressure"]) == (0, 0)
    assert (numbers["layers_loaded"], numbers["layers_evicted"]) == (4, 0)


def test_memory_of_devices_is_summed():
    stats = stats_pb.WorkerStats()
    stats.devices.add(device="a", used_bytes=1_000_000, total_bytes=2_000_000)
    stats.devices.add(device="b", used_bytes=2_000_000, total_bytes=4_000_000)
    numbers = metrics_of(stats, at=AT, memory_pressure=0.0)
    assert (numbers["vram_used_mb"], numbers["vram_total_mb"]) == (3.0, 6.0)
    assert numbers["gpu_memory_pressure"] == 0.5


def test_a_line_comes_at_each_interval_and_a_last_one_at_the_end():
    lines = Lines()
    log = MetricsLog(lambda: {"a": 1}, lines, interval_s=0.001)
    log.start()
    lines.wait_for(3)
    log.close()
    assert set(lines.lines) == {'{"a": 1}'}


def test_an_eviction_brings_a_line_and_an_interval_of_zero_no_others():
    lines = Lines()
    log = MetricsLog(lambda: {"a": len(lines.lines)}, lines, interval_s=0)
    log.start()
    for number in range(1, 4):
        log.evicted()
        lines.wait_for(number)
    log.close()
    assert [json.loads(line)["a"] for line in lines.lines] == [0, 1, 2, 3]


def test_whoever_evicts_does_not_wait_for_the_disk():
    may_write = threading.Event()
    log = MetricsLog(dict, lambda _line: may_write.wait(10), interval_s=0)
    log.start()
    for _ in range(1000):
        log.evicted()  # returns, though nothing can be written
    may_write.set()
    log.close()


def test_a_full_disk_costs_lines_and_one_warning(caplog):
    lines = Lines(OSError(28, "No space left on device"))
    log = MetricsLog(dict, lines, interval_s=0.001)
    with caplog.at_level(logging.WARNING):
        log.start()
        lines.wait_for(5)
        log.close()
    assert [each.detail for each in caplog.records] == ["No space left on device"]


def test_a_file_gets_whole_lines_also_after_it_was_moved_away(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write = append_to(path)
    write("{}")
    write("{}")
    assert path.read_text() == "{}\n{}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.rename(tmp_path / "old")
    write("[]")
    assert path.read_text() == "[]\n"


@pytest.mark.parametrize(("pretty", "num_lines"), [(False, 1), (True, len(KEYS) + 2)])
def test_objects_take_one_line_or_many(tmp_path, pretty, num_lines):
    path = tmp_path / "metrics.jsonl"
    log = open_metrics_log(MetricsSettings(pretty=pretty, interval_s=0), path, lambda: STATS)
    log.start()
    log.close()
    text = path.read_text()
    assert text.count("\n") == num_lines
    assert tuple(json.loads(text)) == KEYS


def test_nothing_is_written_unless_asked_for():
    assert open_metrics_log(MetricsSettings(), None, lambda: STATS) is None
    assert open_metrics_log(MetricsSettings(log=True), None, lambda: STATS) is not None
