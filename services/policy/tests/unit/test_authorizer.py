import pytest

from caravan_policy.domain.authorizer import Authorizer
from caravan_policy.domain.decision import Question
from caravan_policy.domain.errors import InvalidFieldsError
from caravan_policy.domain.permissions import covers
from caravan_policy.domain.policy_set import PolicySet
from caravan_policy.domain.principals import BUILT_IN_ROLES, PrincipalRef

ALICE = PrincipalRef("default", "alice")


def _policy(version, **roles):
    members = {PrincipalRef("default", name): held for name, held in roles.items()}
    return PolicySet(version, BUILT_IN_ROLES, members)


@pytest.fixture
def authorizer(plain_rules):
    return Authorizer(plain_rules(_policy(3, alice=("user",))), lambda allowed: None)


def test_decision_names_the_version_that_decided(authorizer):
    decision = authorizer.decide(Question(ALICE, "inference", "model/m"))
    assert decision.allowed
    assert decision.policy_version == 3


def test_unknown_principal_is_denied(authorizer):
    nobody = PrincipalRef("default", "nobody")
    assert not authorizer.decide(Question(nobody, "inference", "model/m")).allowed


def test_installed_rules_decide_from_then_on(authorizer, plain_rules):
    authorizer.install(plain_rules(_policy(4, alice=("readonly",))))
    assert not authorizer.decide(Question(ALICE, "inference", "model/m")).allowed
    assert authorizer.policy_version == 4


def test_older_rules_never_replace_newer_ones(authorizer, plain_rules):
    authorizer.install(plain_rules(_policy(2)))
    assert authorizer.policy_version == 3


@pytest.mark.parametrize(
    ("question", "fields"),
    [
        (
            Question(PrincipalRef("", ""), "", ""),
            ["tenant", "principal", "permission", "resource"],
        ),
        (Question(ALICE, "*", "*"), ["permission"]),
        (Question(ALICE, "fly", "*"), ["permission"]),
        (Question(ALICE, "inference", "model/"), ["resource"]),
        (Question(ALICE, "inference", "m"), ["resource"]),
        (Question(ALICE, "inference", "model/" + "x" * 600), ["resource"]),
    ],
)
def test_incomplete_or_unknown_questions_are_refused(authorizer, question, fields):
    with pytest.raises(InvalidFieldsError) as caught:
        authorizer.decide(question)
    assert [violation.field for violation in caught.value.field_violations] == fields


@pytest.mark.parametrize(
    ("granted", "asked", "expected"),
    [
        ("*", "*", True),
        ("*", "model/m", True),
        ("model/m", "model/m", True),
        ("model/m", "model/mm", False),
        ("model/m", "*", False),
        ("model/*", "model/m", True),
        ("model/*", "*", False),
        ("model/a/*", "model/a/b", True),
        ("model/a/*", "model/ab", False),
    ],
)
def test_grant_covers_itself_and_what_its_star_stands_for(granted, asked, expected):
    assert covers(granted, asked) is expected
