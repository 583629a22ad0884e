"""The calls of `caravan.policy.v1.PolicyAdminService`.

Creating calls carry an idempotency key, so that repeating one whose answer was lost creates nothing
twice.
"""

import uuid
from collections.abc import Sequence
from datetime import timedelta

from caravan.policy.v1 import policy_admin_service_pb2 as service_pb
from caravan.policy.v1 import principal_pb2 as principal_pb
from caravan_client.errors import ErrorDetails, FieldViolation, InvalidRequestError
from caravan_client.operations.operation import Operation, Page, fill, operation
from caravan_client.operations.timestamps import time_of
from caravan_client.resources import (
    ApiKey,
    ApiKeyState,
    CreatedApiKey,
    Principal,
    RoleDefinition,
)

_SERVICE = "/caravan.policy.v1.PolicyAdminService/"

_KEY_STATES = {
    principal_pb.API_KEY_STATE_ACTIVE: ApiKeyState.ACTIVE,
    principal_pb.API_KEY_STATE_EXPIRED: ApiKeyState.EXPIRED,
    principal_pb.API_KEY_STATE_REVOKED: ApiKeyState.REVOKED,
}


def get_principal(name: str, tenant: str | None) -> Operation[Principal]:
    """Asks for one principal."""
    request = service_pb.GetPrincipalRequest()
    fill(request, name=name, tenant=tenant)
    return operation(
        f"{_SERVICE}GetPrincipal",
        request,
        service_pb.GetPrincipalResponse,
        lambda response: _parse_principal(response.principal),
    )


def list_principals(token: str, tenant: str | None) -> Operation[Page[Principal]]:
    """Asks for a page of principals."""
    request = service_pb.ListPrincipalsRequest(page_token=token)
    fill(request, tenant=tenant)
    return operation(
        f"{_SERVICE}ListPrincipals",
        request,
        service_pb.ListPrincipalsResponse,
        lambda response: Page(
            tuple(_parse_principal(principal) for principal in response.principals),
            response.next_page_token,
        ),
    )


def create_principal(name: str, roles: Sequence[str], tenant: str | None) -> Operation[Principal]:
    """Asks to add a principal."""
    request = service_pb.CreatePrincipalRequest(idempotency_key=uuid.uuid4().hex)
    fill(request, name=name, roles=list(roles), tenant=tenant)
    return operation(
        f"{_SERVICE}CreatePrincipal",
        request,
        service_pb.CreatePrincipalResponse,
        lambda response: _parse_principal(response.principal),
    )


def list_keys(token: str, principal: str | None, tenant: str | None) -> Operation[Page[ApiKey]]:
    """Asks for a page of keys."""
    request = service_pb.ListApiKeysRequest(page_token=token)
    fill(request, principal=principal, tenant=tenant)
    return operation(
        f"{_SERVICE}ListApiKeys",
        request,
        service_pb.ListApiKeysResponse,
        lambda response: Page(
            tuple(_parse_key(key) for key in response.api_keys), response.next_page_token
        ),
    )


def create_key(
    principal: str,
    *,
    tenant: str | None,
    description: str | None,
    time_to_live: timedelta | None,
) -> Operation[CreatedApiKey]:
    """Asks for a new key."""
    request = service_pb.CreateApiKeyRequest(idempotency_key=uuid.uuid4().hex)
    fill(request, principal=principal, tenant=tenant, description=description)
    if time_to_live is not None:
        _set_time_to_live(request, time_to_live)
    return operation(
        f"{_SERVICE}CreateApiKey",
        request,
        service_pb.CreateApiKeyResponse,
        lambda response: CreatedApiKey(_parse_key(response.api_key), response.secret),
    )


def revoke_key(key_id: str) -> Operation[ApiKey]:
    """Asks to revoke a key."""
    request = service_pb.RevokeApiKeyRequest()
    fill(request, id=key_id)
    return operation(
        f"{_SERVICE}RevokeApiKey",
        request,
        service_pb.RevokeApiKeyResponse,
        lambda response: _parse_key(response.api_key),
    )


def list_roles(token: str) -> Operation[Page[RoleDefinition]]:
    """Asks for a page of roles."""
    request = service_pb.ListRolesRequest(page_token=token)
    return operation(
        f"{_SERVICE}ListRoles",
        request,
        service_pb.ListRolesResponse,
        lambda response: Page(
            tuple(
                RoleDefinition(role.name, tuple(role.permissions), role.priority_cap)
                for role in response.roles
            ),
            response.next_page_token,
        ),
    )


def _set_time_to_live(request: service_pb.CreateApiKeyRequest, time_to_live: timedelta) -> None:
    try:
        request.time_to_live.FromTimedelta(time_to_live)
    except ValueError:
        violation = FieldViolation("time_to_live", "is longer than can be expressed")
        raise InvalidRequestError(
            "the request cannot be built",
            ErrorDetails(reason="INVALID_FIELD", field_violations=(violation,)),
        ) from None


def _parse_principal(principal: principal_pb.Principal) -> Principal:
    return Principal(
        name=principal.name,
        tenant=principal.tenant,
        roles=tuple(principal.roles),
        priority_cap=principal.priority_cap,
        create_time=time_of(principal, "create_time"),
    )


def _parse_key(key: principal_pb.ApiKey) -> ApiKey:
    return ApiKey(
        id=key.id,
        principal=key.principal,
        tenant=key.tenant,
        description=key.description,
        state=_KEY_STATES.get(key.state, ApiKeyState.UNKNOWN),
        create_time=time_of(key, "create_time"),
        expire_time=time_of(key, "expire_time"),
        revoke_time=time_of(key, "revoke_time"),
    )
