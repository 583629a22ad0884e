"""The read path of administration: who is there."""

from datetime import UTC, datetime

from caravan_policy.domain.api_keys import ApiKey, is_key_id
from caravan_policy.domain.errors import InvalidFieldsError, NotFoundError
from caravan_policy.domain.field_rules import FieldRules, is_name
from caravan_policy.domain.pages import INVALID_TOKEN, Page, PageRequest, cut_page
from caravan_policy.domain.ports import DirectoryReader, KeyCursor
from caravan_policy.domain.principals import Principal, PrincipalRef, Role


class Directory:
    """Looks principals, keys and roles up. Blocks: call it off the event loop. Thread-safe."""

    def __init__(self, reader: DirectoryReader) -> None:
        self._reader = reader

    def get_principal(self, ref: PrincipalRef) -> Principal:
        """One principal.

        Raises:
            InvalidFieldsError: a name is malformed.
            NotFoundError: there is none.
        """
        check = FieldRules()
        check.name("name", ref.name)
        check.name("tenant", ref.tenant)
        check.done()
        principal = self._reader.find_principal(ref)
        if principal is None:
            raise NotFoundError("principal", ref.name)
        return principal

    def list_principals(self, tenant: str, request: PageRequest) -> Page[Principal]:
        """Principals by tenant and name; of all tenants when `tenant` is empty.

        Raises:
            InvalidFieldsError: the filter or the page asked for is malformed.
        """
        _check_filters(tenant=tenant)
        scope = ("principals", tenant)
        cursor = request.cursor(*scope)
        entries = self._reader.list_principals(
            tenant=tenant or None,
            after=None if cursor is None else _principal_cursor(cursor),
            limit=request.limit + 1,
        )
        return cut_page(
            entries, request.limit, scope, lambda entry: (entry.ref.tenant, entry.ref.name)
        )

    def list_keys(self, tenant: str, principal: str, request: PageRequest) -> Page[ApiKey]:
        """Keys, newest first; of all tenants or principals when those are empty.

        Raises:
            InvalidFieldsError: a filter or the page asked for is malformed.
        """
        _check_filters(tenant=tenant, principal=principal)
        scope = ("keys", tenant, principal)
        cursor = request.cursor(*scope)
        entries = self._reader.list_keys(
            tenant=tenant or None,
            principal=principal or None,
            after=None if cursor is None else _key_cursor(cursor),
            limit=request.limit + 1,
        )
        return cut_page(
            entries, request.limit, scope, lambda key: (key.create_time.isoformat(), key.id)
        )

    def list_roles(self, request: PageRequest) -> Page[Role]:
        """Roles by name.

        Raises:
            InvalidFieldsError: the page asked for is malformed.
        """
        scope = ("roles",)
        cursor = request.cursor(*scope)
        entries = self._reader.list_roles(
            after=None if cursor is None else _role_cursor(cursor), limit=request.limit + 1
        )
        return cut_page(entries, request.limit, scope, lambda role: (role.name,))


def _check_filters(**names: str) -> None:
    check = FieldRules()
    for field, name in names.items():
        check.optional_name(field, name)
    check.done()


def _principal_cursor(parts: list[str]) -> PrincipalRef:
    if len(parts) != 2 or not all(is_name(part) for part in parts):
        raise InvalidFieldsError([INVALID_TOKEN])
    return PrincipalRef(parts[0], parts[1])


def _key_cursor(parts: list[str]) -> KeyCursor:
    if len(parts) != 2 or not is_key_id(parts[1]):
        raise InvalidFieldsError([INVALID_TOKEN])
    try:
        create_time = datetime.fromisoformat(parts[0]).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidFieldsError([INVALID_TOKEN]) from None
    return KeyCursor(create_time, parts[1])


def _role_cursor(parts: list[str]) -> str:
    if len(parts) != 1 or not is_name(parts[0]):
        raise InvalidFieldsError([INVALID_TOKEN])
    return parts[0]
