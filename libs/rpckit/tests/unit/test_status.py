import grpc
import pytest

from caravan.errors.v1 import error_reason_pb2
from caravan_rpckit.details import details_of
from caravan_rpckit.errors import CaravanError, FieldViolation, QuotaViolation, Reason
from caravan_rpckit.status import CODE_OF_REASON, code_of, internal_status, status_of


class SampleError(CaravanError):
    reason = Reason.INVALID_FIELD


class BusyError(CaravanError):
    reason = Reason.QUEUE_FULL


def test_python_reasons_are_those_of_the_contract():
    names = {
        name.removeprefix("ERROR_REASON_")
        for name, number in error_reason_pb2.ErrorReason.items()
        if number
    }
    assert names == {reason.value for reason in Reason}


def test_each_reason_has_exactly_one_code():
    assert set(CODE_OF_REASON) == set(Reason)


def test_the_contract_names_the_code_of_each_reason():
    source = error_reason_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"]
    assert len(source.values) == len(Reason) + 1


def test_status_carries_everything_that_the_error_says():
    error = SampleError(
        "bad",
        metadata={"a": "b"},
        field_violations=[FieldViolation("sampling.top_p", "0 to 1")],
        quota_violations=[QuotaViolation("principal:x", "10 a minute")],
        retry_after_s=1.5,
    )
    details = details_of(status_of(error))
    assert details is not None
    assert details.reason == "INVALID_FIELD"
    assert details.metadata == {"a": "b"}
    assert details.field_violations == (FieldViolation("sampling.top_p", "0 to 1"),)
    assert details.quota_violations == (QuotaViolation("principal:x", "10 a minute"),)
    assert details.retry_after_s == 1.5


def test_unavailable_always_says_when_to_come_back():
    details = details_of(status_of(BusyError("later")))
    assert details is not None
    assert details.retry_after_s is not None


@pytest.mark.parametrize("delay_s", [0.0, 1e-9])
def test_a_tiny_delay_is_still_a_delay(delay_s):
    details = details_of(status_of(BusyError("later", retry_after_s=delay_s)))
    assert details is not None
    assert details.retry_after_s is not None
    assert details.retry_after_s > 0


def test_internal_status_shows_the_trace_id_and_nothing_else():
    status = internal_status("abc")
    details = details_of(status)
    assert code_of(status) is grpc.StatusCode.INTERNAL
    assert details is not None
    assert details.metadata == {"trace_id": "abc"}
