"""Decides with Casbin. The only module that imports it.

Casbin's own role manager is replaced: it compares each new name with every name that it knows, so
that loading takes quadratic time; it remembers every name that it is asked about, for ever; and it
takes a principal for a holder of any role of the same name, so that naming a principal `admin`
would make it one.
"""

import logging
from collections.abc import Sequence

import casbin
from casbin.rbac import RoleManager

from caravan_policy.domain.decision import Question
from caravan_policy.domain.permissions import covers
from caravan_policy.domain.policy_set import PolicySet

# It would log the whole policy at each load, and a warning for each denial, which is an answer.
logging.getLogger("casbin").setLevel(logging.CRITICAL)

# Memberships are asked last: most rules fall at the cheap comparisons before.
_MODEL = """
[request_definition]
r = tenant, principal, permission, resource

[policy_definition]
p = role, permission, resource

[role_definition]
g = _, _, _

[policy_effect]
e = some(where (p.eft == allow))

[matchers]
m = (p.permission == "*" || p.permission == r.permission) && covers(p.resource, r.resource) && \
g(r.principal, p.role, r.tenant)
"""


class CasbinRules:
    """Implements DecisionRules by an enforcer that is never changed, only replaced.

    Not thread-safe: the event loop asks. May be made in any thread.
    """

    def __init__(self, policy_set: PolicySet) -> None:
        self._version = policy_set.version
        self._num_rules = policy_set.num_rules
        self._enforcer = _enforcer(policy_set)

    @property
    def version(self) -> int:
        """See DecisionRules."""
        return self._version

    @property
    def num_rules(self) -> int:
        """See DecisionRules."""
        return self._num_rules

    def allows(self, question: Question) -> bool:
        """See DecisionRules."""
        ref = question.principal
        allowed: bool = self._enforcer.enforce(
            ref.tenant, ref.name, question.permission, question.resource
        )
        return allowed


class PolicySetAdapter(casbin.Adapter):  # type: ignore[misc]  # casbin publishes no types
    """Loads Casbin's model with what was read from our tables.

    Rules go in as lists, never as Casbin's comma-separated lines, so no name can break out of its
    field. Nothing is ever saved through Casbin: our tables are the source.
    """

    def __init__(self, policy_set: PolicySet) -> None:
        self._policy_set = policy_set

    def load_policy(self, model: casbin.Model) -> None:
        """Called by the enforcer."""
        model["p"]["p"].policy = [
            [role.name, str(grant.permission), grant.resource]
            for role in self._policy_set.roles
            for grant in role.grants
        ]
        model["g"]["g"].policy = [
            [ref.name, role, ref.tenant]
            for ref, roles in self._policy_set.memberships.items()
            for role in roles
        ]


class _Memberships(RoleManager):  # type: ignore[misc]  # casbin publishes no types
    """Who holds which role in which tenant: one look-up, nothing inherited, nothing guessed."""

    def __init__(self) -> None:
        self._roles: dict[tuple[str, str], set[str]] = {}

    def clear(self) -> None:
        self._roles = {}

    def add_link(self, name1: str, name2: str, *domain: str) -> None:
        self._roles.setdefault((domain[0], name1), set()).add(name2)

    def has_link(self, name1: str, name2: str, *domain: str) -> bool:
        return name2 in self._roles.get((domain[0], name1), ())

    def get_roles(self, name: str, *domain: str) -> Sequence[str]:
        return sorted(self._roles.get((domain[0], name), ()))


def _enforcer(policy_set: PolicySet) -> casbin.Enforcer:
    enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=_MODEL))
    enforcer.set_role_manager(_Memberships())
    enforcer.add_function("covers", covers)
    enforcer.set_adapter(PolicySetAdapter(policy_set))
    enforcer.load_policy()
    return enforcer
