"""Casbin must decide exactly as the contract says, for every role and question."""

import gc
import itertools
import tracemalloc

import pytest

from caravan_policy.backends.casbin_enforcer import CasbinRules
from caravan_policy.domain.decision import Question
from caravan_policy.domain.permissions import Permission
from caravan_policy.domain.policy_set import PolicySet
from caravan_policy.domain.principals import BUILT_IN_ROLES, Grant, PrincipalRef, Role

EXTRA = (
    Role("one-model", (Grant("inference", "model/m"),), 10),
    Role("all-models", (Grant("inference", "model/*"), Grant("models", "model/*")), 10),
)
ROLES = (*BUILT_IN_ROLES, *EXTRA)


def _everybody():
    members = {PrincipalRef("default", f"only-{role.name}"): (role.name,) for role in ROLES}
    members[PrincipalRef("default", "two")] = ("readonly", "one-model")
    members[PrincipalRef("other", "only-user")] = ("readonly",)
    return PolicySet(7, ROLES, members)


def test_casbin_decides_like_the_plain_reading_of_the_contract(plain_rules):
    policy_set = _everybody()
    rules, plain = CasbinRules(policy_set), plain_rules(policy_set)
    refs = [*policy_set.memberships, PrincipalRef("default", "nobody")]
    resources = ["*", "model/m", "model/mm", "model/a b'\"\\"]
    for ref, permission, resource in itertools.product(refs, Permission, resources):
        question = Question(ref, permission, resource)
        assert rules.allows(question) is plain.allows(question), question


def test_version_and_size_are_those_of_the_policy_set():
    rules = CasbinRules(_everybody())
    assert rules.version == 7
    assert rules.num_rules == _everybody().num_rules


@pytest.mark.parametrize("name", [role.name for role in ROLES])
def test_principal_named_like_a_role_does_not_hold_it(name):
    ref = PrincipalRef("default", name)
    rules = CasbinRules(PolicySet(1, ROLES, {ref: ()}))
    for permission in Permission:
        assert not rules.allows(Question(ref, permission, "model/m"))


def test_same_name_in_another_tenant_is_somebody_else():
    rules = CasbinRules(_everybody())
    assert rules.allows(Question(PrincipalRef("default", "only-user"), "inference", "*"))
    assert not rules.allows(Question(PrincipalRef("other", "only-user"), "inference", "*"))
    assert not rules.allows(Question(PrincipalRef("third", "only-user"), "inference", "*"))


def test_empty_policy_denies_everything():
    rules = CasbinRules(PolicySet(1, (), {}))
    assert not rules.allows(Question(PrincipalRef("", ""), "", ""))
    assert not rules.allows(Question(PrincipalRef("default", "a"), "inference", "*"))


def test_names_that_casbin_would_split_stay_whole():
    role = Role("a, b", (Grant("inference", "model/x, y"),), 1)
    ref = PrincipalRef("default", "p, admin")
    rules = CasbinRules(PolicySet(1, (role,), {ref: ("a, b",)}))
    assert rules.allows(Question(ref, "inference", "model/x, y"))
    assert not rules.allows(Question(ref, "inference", "model/x"))
    assert not rules.allows(Question(PrincipalRef("default", "p"), "inference", "model/x, y"))


def test_asking_about_unknown_principals_leaves_nothing_behind():
    rules = CasbinRules(_everybody())

    def ask(num_names):
        for index in range(num_names):
            ref = PrincipalRef(f"tenant-{index}", f"somebody-{index}")
            assert not rules.allows(Question(ref, "inference", "*"))

    ask(10)
    tracemalloc.start()
    try:
        ask(500)
        gc.collect()
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 50 * 500  # Casbin's own role manager keeps over 1000 for each name


def test_rules_of_many_principals_are_made_in_linear_time():
    """Casbin's own role manager takes minutes here; nothing is timed but the limit of the test."""
    members = {PrincipalRef("default", f"p{index}"): ("user",) for index in range(20_000)}
    rules = CasbinRules(PolicySet(1, ROLES, members))
    assert rules.allows(Question(PrincipalRef("default", "p19999"), "inference", "*"))
