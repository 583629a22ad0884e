"""What operators order about pages: between protos and the engine's domain."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan_engine.domain.errors import InvalidFieldError
from caravan_rpckit.errors import FieldViolation

MAX_TENANT_BYTES = 255
MAX_DISK_BYTES = 2**62


@dataclass(frozen=True, slots=True)
class PageLimits:
    """What a worker may store at most."""

    host_bytes: int  # what the memory plan holds for pages
    has_disk: bool


class PageBudgets(TypedDict):
    """Budgets to set; None leaves one as it is."""

    host_bytes: int | None
    disk_bytes: int | None


def dropped_tenant_of(request: worker_pb.DropPagesRequest) -> str:
    """Returns whose pages go.

    Raises:
        InvalidFieldError: it is no name of a tenant.
    """
    if not 1 <= len(request.tenant.encode()) <= MAX_TENANT_BYTES:
        raise InvalidFieldError(
            FieldViolation("tenant", f"must have 1 to {MAX_TENANT_BYTES} bytes")
        )
    return request.tenant


def page_budgets_of(request: worker_pb.SetPageBudgetsRequest, limits: PageLimits) -> PageBudgets:
    """Returns the budgets.

    Raises:
        InvalidFieldError: none is given, or one that can't be kept.
    """
    host = request.host_bytes if request.HasField("host_bytes") else None
    disk = request.disk_bytes if request.HasField("disk_bytes") else None
    violations = tuple(_faults(host, disk, limits))
    if violations:
        raise InvalidFieldError(*violations)
    return PageBudgets(host_bytes=host, disk_bytes=disk)


def _faults(host: int | None, disk: int | None, limits: PageLimits) -> Iterator[FieldViolation]:
    if host is None and disk is None:
        yield FieldViolation("host_bytes", "set one of host_bytes and disk_bytes")
    if host is not None and host > limits.host_bytes:
        planned = f"must be at most {limits.host_bytes}, which the memory plan holds for pages"
        yield FieldViolation("host_bytes", planned)
    if disk is not None and not limits.has_disk:
        yield FieldViolation("disk_bytes", "this worker was started without pages on disk")
    elif disk is not None and disk > MAX_DISK_BYTES:
        yield FieldViolation("disk_bytes", f"must be at most {MAX_DISK_BYTES}")
