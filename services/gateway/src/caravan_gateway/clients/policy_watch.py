"""Hears from policy what changed."""

from collections.abc import Callable, Collection
from typing import Protocol

import grpc.aio

from caravan.policy.v1 import authorization_service_pb2 as authorization_pb
from caravan.policy.v1 import authorization_service_pb2_grpc as authorization_grpc
from caravan_gateway.clients.watching import watch_forever


class PolicyListener(Protocol):
    """What is done about the news."""

    def connected(self, version: int, revoked_key_ids: Collection[str]) -> None:
        """A new stream begins."""

    def changed(self, version: int, revoked_key_ids: Collection[str]) -> None:
        """Something changed."""

    def lost(self) -> None:
        """The stream broke."""


class PolicyWatch:
    """Follows policy's changes. `on_state` is told "" when connected, else what is wrong."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        listener: PolicyListener,
        *,
        on_state: Callable[[str], None],
    ) -> None:
        self._stub = authorization_grpc.AuthorizationServiceStub(channel)
        self._listener = listener
        self._on_state = on_state
        self.detail = "not connected yet"

    async def run(self) -> None:
        """Follows until cancelled."""
        await watch_forever(
            lambda: self._stub.WatchPolicy(authorization_pb.WatchPolicyRequest()),
            self,
            source="policy",
        )

    def heard(self, message: authorization_pb.WatchPolicyResponse, *, first: bool) -> None:
        """Passes one change on."""
        tell = self._listener.connected if first else self._listener.changed
        tell(message.policy_version, tuple(message.revoked_key_ids))
        if first:
            self.detail = ""
            self._on_state("")

    def lost(self, detail: str) -> None:
        """The stream broke."""
        self.detail = detail
        self._listener.lost()
        self._on_state(detail)
