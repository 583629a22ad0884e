import pytest

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan_engine.domain.errors import InvalidFieldError
from caravan_engine.rpc.convert_pages import PageLimits, dropped_tenant_of, page_budgets_of

LIMITS = PageLimits(host_bytes=1000, has_disk=True)


def faulty(limits=LIMITS, **fields):
    with pytest.raises(InvalidFieldError) as caught:
        page_budgets_of(worker_pb.SetPageBudgetsRequest(**fields), limits)
    return [each.field for each in caught.value.field_violations]


def test_a_budget_that_is_not_given_stays():
    request = worker_pb.SetPageBudgetsRequest(host_bytes=0)
    assert page_budgets_of(request, LIMITS) == {"host_bytes": 0, "disk_bytes": None}
    request = worker_pb.SetPageBudgetsRequest(disk_bytes=2**62)
    assert page_budgets_of(request, LIMITS) == {"host_bytes": None, "disk_bytes": 2**62}


def test_budgets_that_cannot_be_kept_are_refused_by_name():
    assert faulty() == ["host_bytes"]
    assert faulty(host_bytes=1001, disk_bytes=2**62 + 1) == ["host_bytes", "disk_bytes"]
    assert faulty(PageLimits(host_bytes=0, has_disk=False), disk_bytes=0) == ["disk_bytes"]


@pytest.mark.parametrize("tenant", ["", "x" * 256])
def test_pages_are_dropped_of_a_named_tenant_only(tenant):
    with pytest.raises(InvalidFieldError, match="tenant"):
        dropped_tenant_of(worker_pb.DropPagesRequest(tenant=tenant))
