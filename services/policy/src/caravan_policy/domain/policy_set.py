"""The whole policy at one version: what a decision depends on, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass

from caravan_policy.domain.principals import PrincipalRef, Role


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Roles and who holds them, read in one transaction."""

    version: int
    roles: tuple[Role, ...]
    memberships: Mapping[PrincipalRef, tuple[str, ...]]  # role names

    @property
    def num_rules(self) -> int:
        """Grants and memberships together."""
        return sum(len(role.grants) for role in self.roles) + sum(
            len(roles) for roles in self.memberships.values()
        )
