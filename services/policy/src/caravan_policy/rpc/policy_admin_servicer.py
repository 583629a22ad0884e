"""Serves `caravan.policy.v1.PolicyAdminService`.

Whoever calls was authorized by the gateway, which says who it was; that is logged here.
"""

import logging
from functools import partial

from caravan.policy.v1 import policy_admin_service_pb2 as admin_pb
from caravan_policy.domain.administrator import Administrator
from caravan_policy.domain.directory import Directory
from caravan_policy.domain.ports import Clock
from caravan_policy.domain.principals import PrincipalRef
from caravan_policy.rpc.convert import (
    CALLER_KEY,
    api_key_to,
    caller_from,
    new_key_from,
    new_principal_from,
    page_request_from,
    principal_to,
    ref_from,
    role_to,
)
from caravan_policy.runtime.blocking_calls import BlockingCalls
from caravan_policy.runtime.change_applier import ChangeApplier
from caravan_rpckit.call import Call

_log = logging.getLogger("caravan.policy.admin")


class PolicyAdminServicer:
    """Principals, keys and roles."""

    def __init__(
        self,
        directory: Directory,
        administrator: Administrator,
        blocking: BlockingCalls,
        changes: ChangeApplier,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._administrator = administrator
        self._blocking = blocking
        self._changes = changes
        self._clock = clock

    async def GetPrincipal(
        self, request: admin_pb.GetPrincipalRequest, call: Call
    ) -> admin_pb.GetPrincipalResponse:
        """Looks one up."""
        ref = ref_from(request.tenant, request.name)
        principal = await self._blocking.run(self._directory.get_principal, ref)
        return admin_pb.GetPrincipalResponse(principal=principal_to(principal))

    async def ListPrincipals(
        self, request: admin_pb.ListPrincipalsRequest, call: Call
    ) -> admin_pb.ListPrincipalsResponse:
        """A page of principals."""
        page = await self._blocking.run(
            self._directory.list_principals, request.tenant, page_request_from(request)
        )
        return admin_pb.ListPrincipalsResponse(
            principals=[principal_to(entry) for entry in page.entries],
            next_page_token=page.next_token,
        )

    async def CreatePrincipal(
        self, request: admin_pb.CreatePrincipalRequest, call: Call
    ) -> admin_pb.CreatePrincipalResponse:
        """Adds one."""
        new = new_principal_from(request)
        principal = await self._changes.apply(partial(self._administrator.create_principal, new))
        _log_request(call, principal=principal.ref, roles=list(principal.roles))
        return admin_pb.CreatePrincipalResponse(principal=principal_to(principal))

    async def ListApiKeys(
        self, request: admin_pb.ListApiKeysRequest, call: Call
    ) -> admin_pb.ListApiKeysResponse:
        """A page of keys."""
        page = await self._blocking.run(
            self._directory.list_keys,
            request.tenant,
            request.principal,
            page_request_from(request),
        )
        now = self._clock()
        return admin_pb.ListApiKeysResponse(
            api_keys=[api_key_to(entry, now) for entry in page.entries],
            next_page_token=page.next_token,
        )

    async def CreateApiKey(
        self, request: admin_pb.CreateApiKeyRequest, call: Call
    ) -> admin_pb.CreateApiKeyResponse:
        """Makes a key; the only answer that ever holds a secret."""
        new = new_key_from(request)
        issued = await self._changes.apply(partial(self._administrator.create_key, new))
        _log_request(call, principal=issued.key.principal, key_id=issued.key.id)
        return admin_pb.CreateApiKeyResponse(
            api_key=api_key_to(issued.key, self._clock()), secret=issued.credential
        )

    async def RevokeApiKey(
        self, request: admin_pb.RevokeApiKeyRequest, call: Call
    ) -> admin_pb.RevokeApiKeyResponse:
        """Makes a key stop working."""
        key = await self._changes.apply(partial(self._administrator.revoke_key, request.id))
        _log_request(call, principal=key.principal, key_id=key.id)
        return admin_pb.RevokeApiKeyResponse(api_key=api_key_to(key, self._clock()))

    async def ListRoles(
        self, request: admin_pb.ListRolesRequest, call: Call
    ) -> admin_pb.ListRolesResponse:
        """A page of roles."""
        page = await self._blocking.run(self._directory.list_roles, page_request_from(request))
        return admin_pb.ListRolesResponse(
            roles=[role_to(entry) for entry in page.entries], next_page_token=page.next_token
        )


def _log_request(call: Call, *, principal: PrincipalRef, **extra: object) -> None:
    caller = caller_from(call.binary_metadata(CALLER_KEY))
    _log.info(
        "policy administered",
        extra={
            "method": call.method,
            "request_id": call.request_id,
            "caller": None if caller is None else str(caller),
            "principal": str(principal),
            **extra,
        },
    )
