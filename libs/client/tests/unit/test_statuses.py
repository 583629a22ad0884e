import pickle

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from caravan_client.errors import (
    CaravanError,
    GatewayUnreachableError,
    InternalError,
    InvalidRequestError,
    RateLimitedError,
    UnavailableError,
)
from caravan_client.statuses import CallContext, error_of

CONTEXT = CallContext("localhost:50051", "sent-id", 5.0)


def rpc_error(code: grpc.StatusCode, text: str = "", trailing=(), initial=()) -> grpc.RpcError:
    error = grpc.RpcError()
    methods = {
        "code": code,
        "details": text,
        "trailing_metadata": trailing,
        "initial_metadata": initial,
    }
    for name, value in methods.items():
        setattr(error, name, lambda value=value: value)
    return error


def trailing(code: grpc.StatusCode, *details, domain="caravan", reason="QUEUE_FULL"):
    info = error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"a": "b"})
    status = status_pb2.Status(code=code.value[0], message="said by the service")
    for detail in (info, *details):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()),)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "OK"])
def test_every_code_becomes_an_error_of_the_tree_that_keeps_its_code(code):
    plain = error_of(rpc_error(code, "text"), CONTEXT)
    rich = error_of(rpc_error(code, "text", trailing(code)), CONTEXT)
    assert (plain.code, rich.code) == (code.name, code.name)
    assert (rich.reason, rich.message) == ("QUEUE_FULL", "said by the service")
    assert rich.metadata == {"a": "b"}


def test_all_details_are_read():
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    violation = error_details_pb2.BadRequest.FieldViolation(field="a.b", description="too big")
    limit = error_details_pb2.QuotaFailure.Violation(subject="principal:x", description="10/min")
    details = trailing(
        code,
        error_details_pb2.RetryInfo(
            retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000)
        ),
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.QuotaFailure(violations=[limit]),
    )
    error = error_of(rpc_error(code, trailing=details), CONTEXT)
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s == 2.5
    assert error.field_violations[0].field == "a.b"
    assert error.quota_violations[0].subject == "principal:x"
    assert "a.b: too big" in str(error)


def test_request_id_is_the_one_the_gateway_answered_with():
    code = grpc.StatusCode.NOT_FOUND
    announced = (("x-request-id", "announced-id"),)
    assert error_of(rpc_error(code, initial=announced), CONTEXT).request_id == "announced-id"
    assert error_of(rpc_error(code), CONTEXT).request_id == "sent-id"


@pytest.mark.parametrize(
    "metadata",
    [
        (("grpc-status-details-bin", b"\xff\xff\xff"),),
        trailing(grpc.StatusCode.INVALID_ARGUMENT, domain="elsewhere.example"),
        None,
    ],
)
def test_details_of_others_are_not_taken_for_ours(metadata):
    error = error_of(rpc_error(grpc.StatusCode.INVALID_ARGUMENT, "plain", metadata), CONTEXT)
    assert isinstance(error, InvalidRequestError)
    assert (error.reason, error.message) == ("INVALID_ARGUMENT", "plain")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("failed to connect to all addresses; last error: Connection refused", "make run"),
        ("errors resolving x:5: [address lookup failed]", "cannot be resolved"),
        ("failed to connect to all addresses; last error: Socket closed", "TLS"),
        ("Tls handshake failed: CERTIFICATE_VERIFY_FAILED", "name the CA"),
    ],
)
def test_unreachable_gateway_is_explained(text, meaning):
    error = error_of(rpc_error(grpc.StatusCode.UNAVAILABLE, text), CONTEXT)
    assert isinstance(error, GatewayUnreachableError)
    assert meaning in error.message
    assert "localhost:50051" in error.message


def test_lost_connection_is_not_called_unreachable():
    error = error_of(rpc_error(grpc.StatusCode.UNAVAILABLE, "Socket closed"), CONTEXT)
    assert type(error) is UnavailableError
    assert error.reason == "CONNECTION_LOST"


def test_errors_survive_pickling_and_are_distinct_by_default():
    error = error_of(
        rpc_error(grpc.StatusCode.INTERNAL, trailing=trailing(grpc.StatusCode.INTERNAL)), CONTEXT
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (made here)
    assert isinstance(copy, InternalError)
    assert copy.details == error.details
    assert str(copy) == str(error)
    assert CaravanError("x").reason == "UNKNOWN"


def test_failed_call_without_metadata_is_read():
    error = rpc_error(grpc.StatusCode.CANCELLED)
    error.initial_metadata = error.trailing_metadata = lambda: None
    assert error_of(error, CONTEXT).code == "CANCELLED"
