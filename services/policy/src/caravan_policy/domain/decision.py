"""What is asked and what is answered."""

from dataclasses import dataclass

from caravan_policy.domain.principals import PrincipalRef


@dataclass(frozen=True, slots=True)
class Question:
    """May this principal do this to that? `resource` is `model/NAME`, or `*`: the deployment."""

    principal: PrincipalRef
    permission: str
    resource: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, and the version of the policy that gave it."""

    allowed: bool
    policy_version: int
