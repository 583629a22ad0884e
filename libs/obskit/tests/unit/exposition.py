"""Numbers of workers as tests make them, and the text that is exposed of them."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_obskit.kv_numbers import KvCounters, KvGauges
from caravan_obskit.worker_metrics import ReplicaCollector, SystemCollector
from caravan_obskit.worker_numbers import (
    ModelNumbers,
    SystemNumbers,
    WorkerCounters,
    WorkerGauges,
)


def worker(model: str = "bundled", replica: int = 0, **fields: object) -> stats_pb.WorkerStats:
    stats = stats_pb.WorkerStats(worker_id=f"{model}-{replica}", model=model)
    stats.replica_index = replica
    stats.output_tokens_total = 7
    stats.outcomes.add(outcome="end_of_text", count=2)
    stats.outcomes.add(outcome="stop_string", count=1)
    stats.outcomes.add(outcome="length", count=3)
    stats.outcomes.add(outcome="cancelled", count=4)
    stats.outcomes.add(outcome="decode_failed", count=5)
    stats.kv_unit = model_pb.KV_UNIT_PAGES
    stats.waiting_counts.add(priority=10, count=2)
    stats.disk_losses.add(cause="displaced", count=1)
    stats.devices.add(device="CUDA0", used_bytes=1_000, total_bytes=4_000)
    for name, value in fields.items():
        setattr(stats, name, value)
    return stats


def histogram(
    kind: stats_pb.HistogramKind.ValueType, bounds: Iterable[float], counts: Iterable[int]
) -> stats_pb.Histogram:
    return stats_pb.Histogram(kind=kind, bounds=bounds, bucket_counts=counts, sum=4.5)


def expose(collector: ReplicaCollector | SystemCollector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def replicas(*workers: stats_pb.WorkerStats) -> str:
    return expose(ReplicaCollector(lambda: workers))


def system(**models: ModelNumbers) -> str:
    numbers = SystemNumbers(models, {"CUDA0": 9}, requests_per_second=2.5)
    return expose(SystemCollector(lambda: numbers))


def parse(text: str) -> dict[str, Metric]:
    families = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        families[name] = family
    return families


def value(text: str, name: str, **labels: str) -> float | None:
    registry_samples: Iterable[tuple[str, Mapping[str, str], float]] = (
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )
    found = [v for n, have, v in registry_samples if n == name and have == labels]
    assert len(found) <= 1
    return found[0] if found else None


def live(**gauges: float) -> ModelNumbers:
    counters = WorkerCounters(output_tokens=3, kv=KvCounters(disk_losses={"displaced": 1}))
    kv = KvGauges(waiting={"10": 1}, units={"pages": 1})
    return ModelNumbers(counters, WorkerGauges(**gauges, kv=kv))
