"""Serves `caravan.policy.v1.AuthenticationService`."""

from caravan.policy.v1 import authentication_service_pb2 as authentication_pb
from caravan_policy.domain.authenticator import Authenticator
from caravan_policy.rpc.convert import authentication_to
from caravan_policy.runtime.blocking_calls import BlockingCalls
from caravan_rpckit.call import Call


class AuthenticationServicer:
    """From credential to principal."""

    def __init__(self, authenticator: Authenticator, blocking: BlockingCalls) -> None:
        self._authenticator = authenticator
        self._blocking = blocking

    async def Authenticate(
        self, request: authentication_pb.AuthenticateRequest, call: Call
    ) -> authentication_pb.AuthenticateResponse:
        """Says who holds the credential, or refuses with UNAUTHENTICATED."""
        found = await self._blocking.run(self._authenticator.authenticate, request.credential)
        return authentication_to(found)
