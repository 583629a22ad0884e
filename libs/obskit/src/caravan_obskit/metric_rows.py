"""How series are made of the numbers of workers: rows with labels, and families of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from caravan_obskit.worker_numbers import BOUNDS, Measure, WorkerCounters, WorkerGauges


@dataclass(frozen=True, slots=True)
class Row:
    """One series in the making; a row without gauges has only counters."""

    labels: Mapping[str, str]
    counters: WorkerCounters
    gauges: WorkerGauges | None


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one kind of family; `names` are the labels that each row has."""

    names: tuple[str, ...]
    rows: Sequence[Row]


def ratio(part: float, whole: float) -> float:
    """Returns a share; 0 of nothing."""
    return part / whole if whole else 0.0


def counter(
    name: str, documentation: str, rows: Rows, value: Callable[[WorkerCounters], float]
) -> Metric:
    """Makes a family of what only grows."""
    family = CounterMetricFamily(name, documentation, labels=rows.names)
    for row in rows.rows:
        family.add_metric(tuple(row.labels.values()), value(row.counters))
    return family


def gauge(
    name: str, documentation: str, rows: Rows, value: Callable[[WorkerGauges], float]
) -> Metric:
    """Makes a family of how things stand; rows without gauges are left out."""
    family = GaugeMetricFamily(name, documentation, labels=rows.names)
    for row in rows.rows:
        if row.gauges is not None:
            family.add_metric(tuple(row.labels.values()), value(row.gauges))
    return family


def histogram(name: str, documentation: str, rows: Rows, measure: Measure) -> Metric:
    """Makes a family of a distribution."""
    family = HistogramMetricFamily(name, documentation, labels=rows.names)
    bounds = [*map(floatToGoString, BOUNDS[measure]), "+Inf"]
    for row in rows.rows:
        seen = row.counters.distributions[measure]
        buckets = list(zip(bounds, accumulate(seen.counts), strict=True))
        family.add_metric(tuple(row.labels.values()), buckets, seen.total)
    return family


def split_counter(
    name: str,
    documentation: str,
    rows: Rows,
    label: str,
    values: Callable[[WorkerCounters], Mapping[str, float]],
) -> Metric:
    """Makes a family of what only grows, with a series for each value of one more label."""
    family = CounterMetricFamily(name, documentation, labels=(*rows.names, label))
    for row in rows.rows:
        for key, value in values(row.counters).items():
            family.add_metric((*row.labels.values(), key), value)
    return family


def split_gauge(
    name: str,
    documentation: str,
    rows: Rows,
    label: str,
    values: Callable[[WorkerGauges], Mapping[str, float]],
) -> Metric:
    """Makes a family of how things stand, with a series for each value of one more label."""
    family = GaugeMetricFamily(name, documentation, labels=(*rows.names, label))
    for row in rows.rows:
        if row.gauges is not None:
            for key, value in values(row.gauges).items():
                family.add_metric((*row.labels.values(), key), value)
    return family
