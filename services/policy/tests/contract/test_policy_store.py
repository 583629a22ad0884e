"""What every policy store promises."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from caravan_policy.domain.api_keys import ApiKey, KeyState
from caravan_policy.domain.ports import KeyCursor, RememberedResult
from caravan_policy.domain.principals import BUILT_IN_ROLES, Grant, PrincipalRef, Role

NOW = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
ADMIN = PrincipalRef("default", "admin")
ALICE = PrincipalRef("default", "alice")
SHA256 = "ab" * 32


def _key(key_id, ref=ADMIN, *, created=NOW, expires=None, revoked=None):
    return ApiKey(key_id, ref, f"key {key_id}", created, expires, revoked)


@pytest.fixture
def stocked(any_store):
    """Tenants, roles, two principals and one admin key."""
    with any_store.writer.transaction() as tx:
        tx.insert_tenant("default", NOW)
        tx.insert_tenant("other", NOW)
        for role in BUILT_IN_ROLES:
            tx.insert_role(role)
        tx.insert_role(Role("one-model", (Grant("policy", "model/m"),), 5))
        tx.insert_principal(ADMIN, ("admin",), NOW)
        tx.insert_principal(ALICE, ("user", "readonly"), NOW)
        tx.insert_key(_key("aaaaaaaaaaaa"), SHA256)
        tx.advance()
    return any_store


def test_new_store_is_empty(any_store):
    policy_set = any_store.reader.read_policy_set()
    assert (policy_set.version, policy_set.roles, dict(policy_set.memberships)) == (0, (), {})
    assert any_store.reader.find_credential("aaaaaaaaaaaa") is None
    with any_store.writer.transaction() as tx:
        assert not tx.has_tenant("default")
        assert tx.admin_file_key_id() is None


def test_policy_set_holds_roles_and_memberships(stocked):
    policy_set = stocked.reader.read_policy_set()
    assert policy_set.version == 1
    assert [role.name for role in policy_set.roles] == [
        "admin",
        "one-model",
        "operator",
        "readonly",
        "user",
    ]
    assert policy_set.roles[0] == BUILT_IN_ROLES[0]
    assert policy_set.roles[1].grants == (Grant("policy", "model/m"),)
    held = {ref: set(roles) for ref, roles in policy_set.memberships.items()}
    assert held == {ADMIN: {"admin"}, ALICE: {"user", "readonly"}}


def test_principal_comes_back_with_sorted_roles_cap_and_exact_time(stocked):
    principal = stocked.reader.find_principal(ALICE)
    assert principal.roles == ("readonly", "user")
    assert principal.priority_cap == 10
    assert principal.create_time == NOW
    assert stocked.reader.find_principal(PrincipalRef("other", "alice")) is None


def test_credential_holds_key_hash_principal_and_version(stocked):
    stored = stocked.reader.find_credential("aaaaaaaaaaaa")
    assert stored.key == _key("aaaaaaaaaaaa")
    assert stored.sha256 == SHA256
    assert stored.principal == stocked.reader.find_principal(ADMIN)
    assert stored.policy_version == 1


def test_credential_of_a_principal_without_roles_is_found(stocked):
    bare = PrincipalRef("default", "bare")
    with stocked.writer.transaction() as tx:
        tx.insert_principal(bare, (), NOW)
        tx.insert_key(_key("bbbbbbbbbbbb", bare), SHA256)
    stored = stocked.reader.find_credential("bbbbbbbbbbbb")
    assert stored.principal.roles == ()
    assert stored.principal.priority_cap == 0


def test_transaction_sees_its_own_changes_and_advance_reads_them(stocked):
    bob = PrincipalRef("default", "bob")
    with stocked.writer.transaction() as tx:
        tx.insert_principal(bob, ("operator",), NOW)
        assert tx.find_principal(bob).priority_cap == 50
        assert tx.find_key("aaaaaaaaaaaa") == _key("aaaaaaaaaaaa")
        assert tx.find_key("zzzzzzzzzzzz") is None
        policy_set = tx.advance()
    assert policy_set.version == 2
    assert policy_set.memberships[bob] == ("operator",)
    assert stocked.reader.read_policy_set().version == 2


def test_failed_transaction_leaves_nothing(stocked):
    bob = PrincipalRef("default", "bob")

    def fail():
        with stocked.writer.transaction() as tx:
            tx.insert_principal(bob, ("operator",), NOW)
            tx.advance()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert stocked.reader.find_principal(bob) is None
    assert stocked.reader.read_policy_set().version == 1


def test_readers_do_not_see_what_is_not_committed(stocked):
    bob = PrincipalRef("default", "bob")
    with stocked.writer.transaction() as tx:
        tx.insert_principal(bob, ("operator",), NOW)
        assert stocked.reader.find_principal(bob) is None
    assert stocked.reader.find_principal(bob) is not None


def test_transactions_of_several_threads_run_one_after_another(stocked):
    together = threading.Barrier(4)

    def advance(_):
        together.wait(10)
        for _ in range(5):
            with stocked.writer.transaction() as tx:
                tx.advance()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(advance, range(4)))
    assert stocked.reader.read_policy_set().version == 21


def test_found_roles_come_by_name_and_unknown_ones_do_not(stocked):
    with stocked.writer.transaction() as tx:
        found = tx.find_roles(("user", "wizard", "admin"))
    assert [role.name for role in found] == ["admin", "user"]


def test_revoking_keeps_the_first_time(stocked):
    with stocked.writer.transaction() as tx:
        tx.revoke_key("aaaaaaaaaaaa", NOW + timedelta(seconds=1))
        tx.revoke_key("aaaaaaaaaaaa", NOW + timedelta(seconds=2))
    key = stocked.reader.find_credential("aaaaaaaaaaaa").key
    assert key.revoke_time == NOW + timedelta(seconds=1)
    assert key.state(NOW) is KeyState.REVOKED


def test_admin_keys_are_those_that_work_and_may_administer_everything(stocked):
    limited = PrincipalRef("default", "limited")
    later = NOW + timedelta(hours=1)
    with stocked.writer.transaction() as tx:
        tx.insert_principal(limited, ("one-model",), NOW)
        tx.insert_principal(PrincipalRef("other", "admin"), ("admin",), NOW)
        tx.insert_key(_key("bbbbbbbbbbbb", expires=later), SHA256)
        tx.insert_key(_key("cccccccccccc", revoked=NOW), SHA256)
        tx.insert_key(_key("dddddddddddd", ALICE), SHA256)
        tx.insert_key(_key("eeeeeeeeeeee", limited), SHA256)
        tx.insert_key(_key("ffffffffffff", PrincipalRef("other", "admin")), SHA256)
        assert tx.count_admin_keys("default", NOW) == 2
        assert tx.count_admin_keys("default", later) == 1
        assert tx.count_admin_keys("other", NOW) == 1
        assert tx.count_admin_keys("third", NOW) == 0


def test_principals_are_listed_by_tenant_and_name_from_a_place_on(stocked):
    with stocked.writer.transaction() as tx:
        for tenant, name in (("other", "bob"), ("default", "bob"), ("other", "aaa")):
            tx.insert_principal(PrincipalRef(tenant, name), ("user",), NOW)

    def listed(tenant=None, after=None, limit=10):
        found = stocked.reader.list_principals(tenant=tenant, after=after, limit=limit)
        return [str(principal.ref) for principal in found]

    everybody = ["default/admin", "default/alice", "default/bob", "other/aaa", "other/bob"]
    assert listed() == everybody
    assert listed(limit=2) == everybody[:2]
    assert listed(after=PrincipalRef("default", "alice")) == everybody[2:]
    assert listed(after=PrincipalRef("default", "zzz")) == everybody[3:]
    assert listed(tenant="other") == everybody[3:]
    assert listed(after=PrincipalRef("other", "bob")) == []
    found = stocked.reader.list_principals(tenant=None, after=None, limit=2)
    assert [principal.roles for principal in found] == [("admin",), ("readonly", "user")]


def test_keys_are_listed_newest_first_from_a_place_on(stocked):
    with stocked.writer.transaction() as tx:
        tx.insert_key(_key("bbbbbbbbbbbb", ALICE), SHA256)
        tx.insert_key(_key("cccccccccccc", created=NOW + timedelta(microseconds=1)), SHA256)

    def listed(tenant=None, principal=None, after=None, limit=10):
        found = stocked.reader.list_keys(
            tenant=tenant, principal=principal, after=after, limit=limit
        )
        return [key.id[0] for key in found]

    assert listed() == ["c", "b", "a"]
    assert listed(limit=1) == ["c"]
    assert listed(after=KeyCursor(NOW, "bbbbbbbbbbbb")) == ["a"]
    assert listed(after=KeyCursor(NOW, "aaaaaaaaaaaa")) == []
    assert listed(principal="alice") == ["b"]
    assert listed(tenant="other") == []


def test_roles_are_listed_by_name_from_a_place_on(stocked):
    assert [role.name for role in stocked.reader.list_roles(after="one-model", limit=2)] == [
        "operator",
        "readonly",
    ]


def test_results_are_remembered_replaced_and_forgotten(stocked):
    first, second = RememberedResult("x", "one"), RememberedResult("y", "two")
    with stocked.writer.transaction() as tx:
        tx.remember_result("op", "key", first, NOW)
        assert tx.find_result("op", "key", since=NOW) == first
        assert tx.find_result("other", "key", since=NOW) is None
        assert tx.find_result("op", "key", since=NOW + timedelta(microseconds=1)) is None
        tx.remember_result("op", "key", second, NOW + timedelta(seconds=1))
        assert tx.find_result("op", "key", since=NOW) == second
        tx.forget_results(before=NOW + timedelta(seconds=1))
        assert tx.find_result("op", "key", since=NOW) == second
        tx.forget_results(before=NOW + timedelta(seconds=2))
        assert tx.find_result("op", "key", since=NOW) is None


def test_key_of_the_admin_file_is_remembered(stocked):
    with stocked.writer.transaction() as tx:
        tx.set_admin_file_key_id("aaaaaaaaaaaa")
    with stocked.writer.transaction() as tx:
        assert tx.admin_file_key_id() == "aaaaaaaaaaaa"
