"""Between the messages of `caravan.policy.v1` and the domain."""

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.policy.v1 import authentication_service_pb2 as authentication_pb
from caravan.policy.v1 import authorization_service_pb2 as authorization_pb
from caravan.policy.v1 import policy_admin_service_pb2 as admin_pb
from caravan.policy.v1 import principal_pb2 as principal_pb
from caravan_policy.domain.administrator import NewKey, NewPrincipal
from caravan_policy.domain.api_keys import ApiKey, KeyState
from caravan_policy.domain.authenticator import Authentication
from caravan_policy.domain.decision import Decision, Question
from caravan_policy.domain.pages import PageRequest
from caravan_policy.domain.principals import DEFAULT_TENANT, Principal, PrincipalRef, Role
from caravan_policy.runtime.policy_feed import PolicyEvent

CALLER_KEY = "caravan-caller-bin"  # in which the gateway says who calls

_STATES = {
    KeyState.ACTIVE: principal_pb.API_KEY_STATE_ACTIVE,
    KeyState.EXPIRED: principal_pb.API_KEY_STATE_EXPIRED,
    KeyState.REVOKED: principal_pb.API_KEY_STATE_REVOKED,
}

PagedRequest = (
    admin_pb.ListPrincipalsRequest | admin_pb.ListApiKeysRequest | admin_pb.ListRolesRequest
)


def caller_from(metadata: bytes | None) -> PrincipalRef | None:
    """Who the gateway says is calling; None when it said nothing that can be read."""
    if metadata is None:
        return None
    try:
        caller = worker_pb.Caller.FromString(metadata)
    except DecodeError:
        return None
    return PrincipalRef(caller.tenant, caller.principal)


def ref_from(tenant: str, name: str) -> PrincipalRef:
    """A principal as named in a request, where the tenant may be left out."""
    return PrincipalRef(tenant or DEFAULT_TENANT, name)


def new_principal_from(request: admin_pb.CreatePrincipalRequest) -> NewPrincipal:
    """What CreatePrincipal asks for."""
    ref = ref_from(request.tenant, request.name)
    return NewPrincipal(ref, tuple(request.roles), request.idempotency_key)


def new_key_from(request: admin_pb.CreateApiKeyRequest) -> NewKey:
    """What CreateApiKey asks for."""
    return NewKey(
        principal=ref_from(request.tenant, request.principal),
        description=request.description,
        time_to_live_us=(
            _microseconds(request.time_to_live) if request.HasField("time_to_live") else None
        ),
        idempotency_key=request.idempotency_key,
    )


def page_request_from(request: PagedRequest) -> PageRequest:
    """Which page a list request asks for."""
    return PageRequest(request.page_size, request.page_token)


def question_from(request: authorization_pb.CheckPermissionRequest) -> Question:
    """What CheckPermission asks; nothing is filled in."""
    return Question(
        PrincipalRef(request.tenant, request.principal), request.permission, request.resource
    )


def principal_to(principal: Principal) -> principal_pb.Principal:
    """A principal on the wire."""
    return principal_pb.Principal(
        name=principal.ref.name,
        tenant=principal.ref.tenant,
        roles=principal.roles,
        priority_cap=principal.priority_cap,
        create_time=_timestamp(principal.create_time),
    )


def api_key_to(key: ApiKey, now: datetime) -> principal_pb.ApiKey:
    """A key on the wire, as it works at `now`."""
    return principal_pb.ApiKey(
        id=key.id,
        principal=key.principal.name,
        tenant=key.principal.tenant,
        description=key.description,
        state=_STATES[key.state(now)],
        create_time=_timestamp(key.create_time),
        expire_time=_timestamp(key.expire_time),
        revoke_time=_timestamp(key.revoke_time),
    )


def role_to(role: Role) -> principal_pb.Role:
    """A role on the wire."""
    return principal_pb.Role(
        name=role.name, permissions=role.permissions, priority_cap=role.priority_cap
    )


def authentication_to(found: Authentication) -> authentication_pb.AuthenticateResponse:
    """Who it is, on the wire."""
    return authentication_pb.AuthenticateResponse(
        principal=principal_to(found.principal),
        key_id=found.key_id,
        expire_time=_timestamp(found.expire_time),
        policy_version=found.policy_version,
    )


def decision_to(decision: Decision) -> authorization_pb.CheckPermissionResponse:
    """A decision on the wire."""
    return authorization_pb.CheckPermissionResponse(
        allowed=decision.allowed, policy_version=decision.policy_version
    )


def event_to(event: PolicyEvent) -> authorization_pb.WatchPolicyResponse:
    """A change on the wire."""
    return authorization_pb.WatchPolicyResponse(
        policy_version=event.policy_version, revoked_key_ids=event.revoked_key_ids
    )


def _microseconds(duration: Duration) -> int:
    return duration.seconds * 1_000_000 + duration.nanos // 1_000


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
