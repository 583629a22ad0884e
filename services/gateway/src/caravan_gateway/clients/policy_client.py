"""Asks policy who calls and what they may do."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random

from caravan.policy.v1 import authentication_service_pb2 as authentication_pb
from caravan.policy.v1 import authentication_service_pb2_grpc as authentication_grpc
from caravan.policy.v1 import authorization_service_pb2 as authorization_pb
from caravan.policy.v1 import authorization_service_pb2_grpc as authorization_grpc
from caravan_gateway.clients.convert import identity_from
from caravan_gateway.clients.failures import control_failure, credential_refusal
from caravan_gateway.domain.decision import Decision, Question
from caravan_gateway.domain.principal import Credential, Identity
from caravan_rpckit.tracing import UNTRACED, CallTracing, trace_metadata

T = TypeVar("T")

_AUTHENTICATE = "caravan.policy.v1.AuthenticationService/Authenticate"
_CHECK_PERMISSION = "caravan.policy.v1.AuthorizationService/CheckPermission"
# A connection that broke is often back at once; a policy that is away is not waited for.
_MAX_ATTEMPTS = 2


class PolicyClient:
    """The domain's ports towards policy, over one channel."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        timeout_s: float,
        tracing: CallTracing = UNTRACED,
    ) -> None:
        self._tracing = tracing
        self._authentication = authentication_grpc.AuthenticationServiceStub(channel)
        self._authorization = authorization_grpc.AuthorizationServiceStub(channel)
        self._timeout_s = timeout_s

    async def check_credential(self, credential: Credential) -> Identity:
        """Implements CredentialChecker."""
        request = authentication_pb.AuthenticateRequest(credential=credential.text)
        try:
            with self._tracing.client_span(_AUTHENTICATE) as traceparent:
                metadata = trace_metadata(traceparent)
                response = await _repeated(
                    lambda: self._authentication.Authenticate(
                        request, timeout=self._timeout_s, metadata=metadata
                    )
                )
        except grpc.aio.AioRpcError as error:
            raise credential_refusal(error) from None
        return identity_from(response)

    async def check_permission(self, question: Question) -> Decision:
        """Implements PermissionChecker."""
        request = authorization_pb.CheckPermissionRequest(
            tenant=question.tenant,
            principal=question.principal,
            permission=question.permission,
            resource=question.resource,
        )
        try:
            with self._tracing.client_span(_CHECK_PERMISSION) as traceparent:
                metadata = trace_metadata(traceparent)
                response = await _repeated(
                    lambda: self._authorization.CheckPermission(
                        request, timeout=self._timeout_s, metadata=metadata
                    )
                )
        except grpc.aio.AioRpcError as error:
            raise control_failure(error, "policy") from None
        return Decision(response.allowed, response.policy_version)


async def _repeated(attempt: Callable[[], Awaitable[T]]) -> T:
    """Awaits a call that changes nothing, once more where the connection broke."""
    async for trial in AsyncRetrying(
        retry=retry_if_exception(_is_unavailable),
        wait=wait_random(0.02, 0.08),
        stop=stop_after_attempt(_MAX_ATTEMPTS),
        reraise=True,
    ):
        with trial:
            return await attempt()
    raise AssertionError("the loop returns or raises")


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
