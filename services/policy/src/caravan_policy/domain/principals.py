"""Who may call: principals and the roles that they hold."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from caravan_policy.domain.permissions import ANY, Permission

DEFAULT_TENANT = "default"
ADMIN = "admin"  # the principal and the role of the first key


@dataclass(frozen=True, slots=True, order=True)
class PrincipalRef:
    """Names a principal. The same name in another tenant is somebody else."""

    tenant: str
    name: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody, or a program, that may call."""

    ref: PrincipalRef
    roles: tuple[str, ...]  # sorted
    priority_cap: int
    create_time: datetime


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """Allows one permission (or `*`) on the resources that a pattern covers."""

    permission: str
    resource: str = ANY


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of grants."""

    name: str
    grants: tuple[Grant, ...]
    priority_cap: int

    @property
    def permissions(self) -> tuple[str, ...]:
        """What it allows, wherever; sorted."""
        return tuple(sorted({grant.permission for grant in self.grants}))


def _built_in(name: str, priority_cap: int, *permissions: str) -> Role:
    return Role(name, tuple(sorted(Grant(permission) for permission in permissions)), priority_cap)


# The caps are the named priorities of the scheduler: admin, premium, default, background.
BUILT_IN_ROLES = (
    _built_in(ADMIN, 100, ANY),
    _built_in("operator", 50, Permission.INFERENCE, Permission.METRICS, Permission.HEALTH),
    _built_in("user", 10, Permission.INFERENCE),
    _built_in("readonly", 1, Permission.METRICS, Permission.HEALTH),
)


def highest_cap(roles: Iterable[Role]) -> int:
    """The highest priority that any of `roles` allows; 0 for none."""
    return max((role.priority_cap for role in roles), default=0)
