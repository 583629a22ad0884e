"""What a host says about its workers at one moment, and what a valid report is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from caravan_obskit.worker_numbers import WorkerNumbers
from caravan_rpckit.errors import FieldViolation
from caravan_telemetry.domain.errors import InvalidFieldsError

MAX_WORKERS_PER_HOST = 256
_MAX_NAME_LENGTH = 256
_MAX_DEVICES = 64


@dataclass(frozen=True, slots=True)
class HostReport:
    """All live workers of a host; who is missing is gone."""

    host_id: str
    workers: tuple[WorkerNumbers, ...]


def check_report(report: HostReport) -> None:
    """Refuses a report that would spoil the sums.

    Raises:
        InvalidFieldsError: names the faults.
    """
    faults = [*_host_faults(report)]
    for position, worker in enumerate(report.workers):
        for fault in _worker_faults(worker):
            field = f"workers[{position}].{fault.field}"
            faults.append(FieldViolation(field, fault.description))
    if faults:
        raise InvalidFieldsError(faults)


def _host_faults(report: HostReport) -> Iterator[FieldViolation]:
    if not 0 < len(report.host_id) <= _MAX_NAME_LENGTH:
        yield FieldViolation("host_id", f"must have 1 to {_MAX_NAME_LENGTH} characters")
    if len(report.workers) > MAX_WORKERS_PER_HOST:
        yield FieldViolation("workers", f"at most {MAX_WORKERS_PER_HOST} are allowed")
    if len({worker.worker_id for worker in report.workers}) < len(report.workers):
        yield FieldViolation("workers", "worker ids must be distinct")


def _worker_faults(worker: WorkerNumbers) -> Iterator[FieldViolation]:
    for name in ("worker_id", "model"):
        if not 0 < len(getattr(worker, name)) <= _MAX_NAME_LENGTH:
            yield FieldViolation(name, f"must have 1 to {_MAX_NAME_LENGTH} characters")
    if not _is_amount(worker.gauges.output_tokens_per_second):
        yield FieldViolation("output_tokens_per_second", "must be finite and not negative")
    if not all(_is_amount(seen.total) for seen in worker.counters.distributions.values()):
        yield FieldViolation("histograms", "sums must be finite and not negative")
    if len(worker.device_bytes) > _MAX_DEVICES:
        yield FieldViolation("devices", f"at most {_MAX_DEVICES} are allowed")
    if any(len(device) > _MAX_NAME_LENGTH for device in worker.device_bytes):
        yield FieldViolation("devices", f"names must have at most {_MAX_NAME_LENGTH} characters")


def _is_amount(value: float) -> bool:
    return math.isfinite(value) and value >= 0
