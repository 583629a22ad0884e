"""Serves `caravan.policy.v1.AuthorizationService`."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from caravan.policy.v1 import authorization_service_pb2 as authorization_pb
from caravan_policy.domain.authorizer import Authorizer
from caravan_policy.rpc.convert import decision_to, event_to, question_from
from caravan_policy.runtime.policy_feed import PolicyFeed
from caravan_rpckit.call import Call


class AuthorizationServicer:
    """Decisions, and news of when they change."""

    def __init__(self, authorizer: Authorizer, feed: PolicyFeed) -> None:
        self._authorizer = authorizer
        self._feed = feed

    async def CheckPermission(
        self, request: authorization_pb.CheckPermissionRequest, call: Call
    ) -> authorization_pb.CheckPermissionResponse:
        """Decides from memory."""
        return decision_to(self._authorizer.decide(question_from(request)))

    async def WatchPolicy(
        self, request: authorization_pb.WatchPolicyRequest, call: Call
    ) -> AsyncIterator[authorization_pb.WatchPolicyResponse]:
        """The version at once, then every change."""
        async with aclosing(self._feed.watch()) as events:
            async for event in events:
                yield event_to(event)
