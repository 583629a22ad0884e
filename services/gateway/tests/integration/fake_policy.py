"""The policy service, played: its keys are set by the test."""

import asyncio
from dataclasses import dataclass, field

from fake_server import FakeServer, RefusedError

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.policy.v1 import authentication_service_pb2 as authentication_pb
from caravan.policy.v1 import authorization_service_pb2 as authorization_pb
from caravan.policy.v1 import policy_admin_service_pb2 as admin_pb
from caravan.policy.v1 import principal_pb2
from caravan_rpckit.errors import Reason


@dataclass
class Key:
    key_id: str
    principal: str = "alice"
    permissions: set = field(default_factory=lambda: {"inference"})
    priority_cap: int = 50
    expire_time_s: float | None = None
    refusal: Reason | None = None


class FakePolicy(FakeServer):
    def __init__(self, home):
        super().__init__(home, "policy")
        self.version = 1
        self.keys: dict[str, Key] = {}
        self.num_authentications = 0
        self.num_checks = 0
        self.questions = []
        self.forwarded = []
        self.hold: asyncio.Event | None = None
        self.hold_answer: asyncio.Event | None = None
        self._watchers: set[asyncio.Queue] = set()

    def add_to(self, server):
        descriptors = (
            authentication_pb.DESCRIPTOR.services_by_name["AuthenticationService"],
            authorization_pb.DESCRIPTOR.services_by_name["AuthorizationService"],
            admin_pb.DESCRIPTOR.services_by_name["PolicyAdminService"],
        )
        for descriptor in descriptors:
            server.add(self, descriptor, peers=("gateway",))

    def add_key(self, secret, **values):
        self.keys[secret] = Key(**{"key_id": f"id-{len(self.keys)}", **values})
        return self.keys[secret]

    def revoke(self, secret):
        self.keys[secret].refusal = Reason.KEY_REVOKED
        self.announce(self.keys[secret].key_id)

    def announce(self, *revoked_key_ids):
        self.version += 1
        for watcher in self._watchers:
            watcher.put_nowait((self.version, revoked_key_ids))

    async def Authenticate(self, request, call):
        self.num_authentications += 1
        version = self.version
        if self.hold is not None:
            await self.hold.wait()
        key = self.keys.get(request.credential)
        if key is None:
            raise RefusedError(Reason.INVALID_CREDENTIAL)
        if key.refusal is not None:
            raise RefusedError(key.refusal)
        response = authentication_pb.AuthenticateResponse(
            principal=principal_pb2.Principal(
                name=key.principal, tenant="default", priority_cap=key.priority_cap
            ),
            key_id=key.key_id,
            policy_version=version,
        )
        if key.expire_time_s is not None:
            response.expire_time.FromNanoseconds(round(key.expire_time_s * 1e9))
        if self.hold_answer is not None:
            await self.hold_answer.wait()
        return response

    async def CheckPermission(self, request, call):
        self.num_checks += 1
        self.questions.append((request.permission, request.resource))
        allowed = any(
            request.permission in key.permissions
            for key in self.keys.values()
            if key.principal == request.principal
        )
        return authorization_pb.CheckPermissionResponse(
            allowed=allowed, policy_version=self.version
        )

    async def WatchPolicy(self, request, call):
        news = asyncio.Queue()
        self._watchers.add(news)
        try:
            yield authorization_pb.WatchPolicyResponse(policy_version=self.version)
            while True:
                version, revoked = await news.get()
                yield authorization_pb.WatchPolicyResponse(
                    policy_version=version, revoked_key_ids=revoked
                )
        finally:
            self._watchers.discard(news)

    async def CreateApiKey(self, request, call):
        caller = worker_pb.Caller.FromString(call.binary_metadata("caravan-caller-bin"))
        self.forwarded.append((request, dict(call.metadata), caller))
        if request.principal == "nobody":
            raise RefusedError(Reason.RESOURCE_NOT_FOUND, metadata={"principal": "nobody"})
        return admin_pb.CreateApiKeyResponse(secret="cvn_new")

    async def GetPrincipal(self, request, call):
        return admin_pb.GetPrincipalResponse()

    async def ListPrincipals(self, request, call):
        return admin_pb.ListPrincipalsResponse()

    async def CreatePrincipal(self, request, call):
        return admin_pb.CreatePrincipalResponse()

    async def ListApiKeys(self, request, call):
        return admin_pb.ListApiKeysResponse()

    async def RevokeApiKey(self, request, call):
        return admin_pb.RevokeApiKeyResponse()

    async def ListRoles(self, request, call):
        return admin_pb.ListRolesResponse()
