from datetime import timedelta

import pytest

from caravan_policy.domain.administrator import Administrator, NewKey, NewPrincipal
from caravan_policy.domain.api_keys import KeyState
from caravan_policy.domain.decision import Question
from caravan_policy.domain.errors import (
    ExistsError,
    InvalidFieldsError,
    LastAdminKeyError,
    NotFoundError,
)
from caravan_policy.domain.principals import PrincipalRef

ALICE = PrincipalRef("default", "alice")
ADMIN = PrincipalRef("default", "admin")


@pytest.fixture
def alice(administrator):
    return administrator.create_principal(NewPrincipal(ALICE, ("user",))).value


@pytest.fixture
def admin_key_id(administrator, store):
    return store.state.admin_file_key_id


def _fields(error):
    return [violation.field for violation in error.value.field_violations]


def test_created_principal_has_its_roles_and_is_allowed_at_once(administrator, now):
    outcome = administrator.create_principal(NewPrincipal(ALICE, ("user", "operator")))
    assert outcome.value.ref == ALICE
    assert outcome.value.roles == ("operator", "user")
    assert outcome.value.priority_cap == 50
    assert outcome.value.create_time == now()
    assert outcome.change.rules.allows(Question(ALICE, "metrics", "*"))


def test_each_change_raises_the_policy_version_by_one(administrator, store):
    before = store.state.version
    administrator.create_principal(NewPrincipal(ALICE, ("user",)))
    issued = administrator.create_key(NewKey(ALICE)).value
    outcome = administrator.revoke_key(issued.key.id)
    assert store.state.version == before + 3
    assert outcome.change.rules.version == before + 3
    assert outcome.change.revoked_key_ids == (issued.key.id,)


def test_refused_change_leaves_everything_as_it_was(administrator, alice, store):
    before = store.state
    with pytest.raises(ExistsError):
        administrator.create_principal(NewPrincipal(ALICE, ("user",)))
    assert store.state is before


def test_name_that_is_taken_is_refused_with_the_name(administrator, alice):
    with pytest.raises(ExistsError) as caught:
        administrator.create_principal(NewPrincipal(ALICE, ("user",)))
    assert caught.value.metadata == {"resource": "principal", "name": "alice"}


@pytest.mark.parametrize(
    ("new", "resource"),
    [
        (NewPrincipal(PrincipalRef("elsewhere", "bob"), ("user",)), "tenant"),
        (NewPrincipal(PrincipalRef("default", "bob"), ("user", "wizard")), "role"),
    ],
)
def test_principal_of_unknown_tenant_or_role_is_refused(administrator, new, resource):
    with pytest.raises(NotFoundError) as caught:
        administrator.create_principal(new)
    assert caught.value.metadata["resource"] == resource


def test_all_faulty_fields_of_a_principal_are_named_together(administrator):
    new = NewPrincipal(PrincipalRef("A!", ""), ("user", "user", "Üser"), "k" * 65)
    with pytest.raises(InvalidFieldsError) as caught:
        administrator.create_principal(new)
    assert _fields(caught) == ["name", "tenant", "roles[2]", "roles", "idempotency_key"]


def test_principal_without_a_role_is_refused(administrator):
    with pytest.raises(InvalidFieldsError) as caught:
        administrator.create_principal(NewPrincipal(ALICE, ()))
    assert _fields(caught) == ["roles"]


@pytest.mark.parametrize("name", ["a", "x" * 63, "ops-bot.7_b"])
def test_names_of_the_documented_form_are_taken(administrator, name):
    ref = PrincipalRef("default", name)
    assert administrator.create_principal(NewPrincipal(ref, ("user",))).value.ref == ref


@pytest.mark.parametrize("name", ["", "x" * 64, "Alice", "a b", "a/b", "a\n", "a\x00", "é"])
def test_other_names_are_refused(administrator, name):
    with pytest.raises(InvalidFieldsError):
        administrator.create_principal(NewPrincipal(PrincipalRef("default", name), ("user",)))


def test_repeating_a_creation_under_its_idempotency_key_returns_the_first(administrator):
    first = administrator.create_principal(NewPrincipal(ALICE, ("user", "readonly"), "once"))
    again = administrator.create_principal(NewPrincipal(ALICE, ("readonly", "user"), "once"))
    assert again.value == first.value
    assert again.change is None


def test_idempotency_key_of_another_request_is_refused(administrator):
    administrator.create_principal(NewPrincipal(ALICE, ("user",), "once"))
    with pytest.raises(InvalidFieldsError) as caught:
        administrator.create_principal(NewPrincipal(ALICE, ("operator",), "once"))
    assert _fields(caught) == ["idempotency_key"]


def test_idempotency_key_is_forgotten_after_its_time(administrator, store, fake_clock):
    administrator.create_principal(NewPrincipal(ALICE, ("user",), "once"))
    fake_clock.advance(timedelta(hours=24).total_seconds() + 1)
    with pytest.raises(ExistsError):
        administrator.create_principal(NewPrincipal(ALICE, ("user",), "once"))
    administrator.create_key(NewKey(ALICE))
    assert store.state.results == {}


def test_created_key_expires_when_asked_to(administrator, alice, now):
    key = administrator.create_key(NewKey(ALICE, "laptop", 1_500_000)).value.key
    assert key.expire_time == now() + timedelta(seconds=1.5)
    assert key.description == "laptop"
    assert key.state(now()) is KeyState.ACTIVE


def test_key_without_a_time_to_live_never_expires(administrator, alice):
    assert administrator.create_key(NewKey(ALICE)).value.key.expire_time is None


@pytest.mark.parametrize("ttl_us", [0, -5, 999_999, 10**30])
def test_time_to_live_out_of_range_is_refused(administrator, alice, ttl_us):
    with pytest.raises(InvalidFieldsError) as caught:
        administrator.create_key(NewKey(ALICE, time_to_live_us=ttl_us))
    assert _fields(caught) == ["time_to_live"]


@pytest.mark.parametrize("description", ["x" * 201, "two\nlines", "\x1b[31mred"])
def test_description_that_is_long_or_not_printable_is_refused(administrator, alice, description):
    with pytest.raises(InvalidFieldsError) as caught:
        administrator.create_key(NewKey(ALICE, description))
    assert _fields(caught) == ["description"]


def test_key_of_an_unknown_principal_is_refused(administrator):
    with pytest.raises(NotFoundError):
        administrator.create_key(NewKey(PrincipalRef("default", "nobody")))


def test_secret_is_not_handed_out_twice_for_one_idempotency_key(administrator, alice, store):
    first = administrator.create_key(NewKey(ALICE, idempotency_key="once")).value
    with pytest.raises(ExistsError) as caught:
        administrator.create_key(NewKey(ALICE, idempotency_key="once"))
    assert caught.value.metadata == {"resource": "api_key", "name": first.key.id}
    assert len(store.state.keys) == 2


def test_one_idempotency_key_serves_different_methods(administrator):
    administrator.create_principal(NewPrincipal(ALICE, ("user",), "once"))
    assert administrator.create_key(NewKey(ALICE, idempotency_key="once")).value.key.id


def test_only_the_hash_of_a_secret_is_stored(administrator, alice, store):
    issued = administrator.create_key(NewKey(ALICE)).value
    assert issued.credential.split("_")[2] not in str(store.state.keys)


def test_revoking_twice_changes_nothing_more(administrator, alice, fake_clock):
    issued = administrator.create_key(NewKey(ALICE)).value
    first = administrator.revoke_key(issued.key.id)
    fake_clock.advance(10)
    again = administrator.revoke_key(issued.key.id)
    assert again.value == first.value
    assert again.change is None


def test_revoking_an_unknown_key_is_refused(administrator):
    with pytest.raises(NotFoundError) as caught:
        administrator.revoke_key("abcdefghijkl")
    assert caught.value.metadata == {"resource": "api_key", "name": "abcdefghijkl"}


def test_secret_sent_as_an_identifier_is_refused_without_repeating_it(administrator, alice):
    credential = administrator.create_key(NewKey(ALICE)).value.credential
    with pytest.raises(InvalidFieldsError) as caught:
        administrator.revoke_key(credential)
    assert credential not in repr(caught.value)
    assert credential not in caught.value.message


def test_last_working_admin_key_cannot_be_revoked(administrator, admin_key_id, store):
    before = store.state
    with pytest.raises(LastAdminKeyError):
        administrator.revoke_key(admin_key_id)
    assert store.state is before


def test_admin_key_can_be_revoked_once_another_works(administrator, admin_key_id):
    second = administrator.create_key(NewKey(ADMIN)).value.key
    administrator.revoke_key(admin_key_id)
    with pytest.raises(LastAdminKeyError):
        administrator.revoke_key(second.id)


def test_expired_admin_key_does_not_count_as_working(administrator, admin_key_id, fake_clock):
    second = administrator.create_key(NewKey(ADMIN, time_to_live_us=1_000_000)).value.key
    fake_clock.advance(2)
    with pytest.raises(LastAdminKeyError):
        administrator.revoke_key(admin_key_id)
    assert administrator.revoke_key(second.id).value.revoke_time is not None


def test_keys_of_others_do_not_count_as_admin_keys(administrator, admin_key_id, alice):
    administrator.create_key(NewKey(ALICE))
    with pytest.raises(LastAdminKeyError):
        administrator.revoke_key(admin_key_id)


def test_rules_that_cannot_be_made_undo_the_change(alice, store, now):
    def broken(policy_set):
        raise RuntimeError("no rules")

    before = store.state
    administrator = Administrator(store, broken, now, remember_results_for=timedelta(hours=24))
    with pytest.raises(RuntimeError):
        administrator.create_key(NewKey(ALICE))
    assert store.state is before
