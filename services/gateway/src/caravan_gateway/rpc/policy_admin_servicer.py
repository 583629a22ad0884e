"""Serves `caravan.policy.v1.PolicyAdminService` by passing it on to policy."""

from google.protobuf.message import Message

from caravan.policy.v1 import policy_admin_service_pb2 as policy_pb
from caravan_gateway.rpc.forwarding import UnaryForwarder, pass_on
from caravan_gateway.runtime.access import AccessGate
from caravan_rpckit.call import Call


class PolicyAdminServicer:
    """Lets through who may; policy answers."""

    def __init__(self, gate: AccessGate, policy: UnaryForwarder) -> None:
        self._gate = gate
        self._policy = policy

    async def GetPrincipal(self, request: policy_pb.GetPrincipalRequest, call: Call) -> bytes:
        """Passes on."""
        return await self._pass_on(request, call)

    async def ListPrincipals(self, request: policy_pb.ListPrincipalsRequest, call: Call) -> bytes:
        """Passes on."""
        return await self._pass_on(request, call)

    async def CreatePrincipal(self, request: policy_pb.CreatePrincipalRequest, call: Call) -> bytes:
        """Passes on."""
        return await self._pass_on(request, call)

    async def ListApiKeys(self, request: policy_pb.ListApiKeysRequest, call: Call) -> bytes:
        """Passes on."""
        return await self._pass_on(request, call)

    async def CreateApiKey(self, request: policy_pb.CreateApiKeyRequest, call: Call) -> bytes:
        """Passes on."""
        return await self._pass_on(request, call)

    async def RevokeApiKey(self, request: policy_pb.RevokeApiKeyRequest, call: Call) -> bytes:
        """Passes on."""
        return await self._pass_on(request, call)

    async def ListRoles(self, request: policy_pb.ListRolesRequest, call: Call) -> bytes:
        """Passes on."""
        return await self._pass_on(request, call)

    async def _pass_on(self, request: Message, call: Call) -> bytes:
        return await pass_on(self._gate, self._policy, request, call)
