"""The README says what the code says."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from caravan_obskit.instruments import Instruments
from caravan_obskit.tracing import lost_spans_counter
from caravan_obskit.worker_metrics import SystemCollector
from caravan_obskit.worker_numbers import SystemNumbers
from caravan_servicekit.settings_report import settings_table
from caravan_telemetry.config import TelemetrySettings
from caravan_telemetry.metrics import IngestMetrics, SpanMetrics, UsageMetrics, declare_gauges


@pytest.fixture(scope="module")
def readme() -> str:
    return (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def instruments() -> Instruments:
    instruments = Instruments()
    UsageMetrics(instruments, model_limit=1)
    IngestMetrics(instruments)
    SpanMetrics(instruments)
    lost_spans_counter(instruments)
    declare_gauges(
        instruments, live_hosts=lambda: 0, queued_batches=lambda: 0, database_bytes=lambda: 0
    )
    return instruments


def test_the_table_of_settings_is_the_tree_of_settings(readme):
    assert settings_table(TelemetrySettings) in readme


def test_the_table_of_instruments_is_what_is_declared(readme, instruments):
    assert instruments.table() in readme


def test_the_table_of_worker_metrics_is_what_is_exported(readme):
    registry = CollectorRegistry()
    registry.register(SystemCollector(lambda: SystemNumbers({}, {}, 0.0)))
    exported = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
    }
    table = readme[readme.index("Of all workers, summed") : readme.index("Not exported")]
    listed = set(re.findall(r"`((?:llama|llm|vllm|caravan)[_:][a-z0-9_]*[a-z0-9])`", table))
    assert exported == listed
