import pytest

from caravan_policy.domain.administrator import NewKey
from caravan_policy.domain.api_keys import Credential
from caravan_policy.domain.authenticator import Authenticator
from caravan_policy.domain.errors import KeyRevokedError, StoreUnusableError
from caravan_policy.domain.principals import PrincipalRef

ADMIN = PrincipalRef("default", "admin")


@pytest.fixture
def authenticator(store, now):
    return Authenticator(store, now, lambda outcome: None)


def test_first_start_makes_tenant_roles_administrator_and_key(
    first_start, store, key_file, authenticator
):
    issued = first_start.ensure()
    found = authenticator.authenticate(key_file.content)
    assert found.key_id == issued.key_id
    assert found.principal.ref == ADMIN
    assert found.principal.priority_cap == 100
    assert set(store.state.tenants) == {"default"}
    assert {name: role.permissions for name, role in store.state.roles.items()} == {
        "admin": ("*",),
        "operator": ("health", "inference", "metrics"),
        "user": ("inference",),
        "readonly": ("health", "metrics"),
    }
    assert {name: role.priority_cap for name, role in store.state.roles.items()} == {
        "admin": 100,
        "operator": 50,
        "user": 10,
        "readonly": 1,
    }


def test_later_starts_change_nothing(first_start, store, key_file):
    first_start.ensure()
    state, content = store.state, key_file.content
    assert first_start.ensure() is None
    assert store.state == state
    assert key_file.content == content


def test_later_start_mints_no_key_when_the_file_is_gone(first_start, store, key_file):
    first_start.ensure()
    key_file.content = None
    assert first_start.ensure() is None
    assert key_file.content is None
    assert len(store.state.keys) == 1


def test_nothing_is_set_up_when_the_key_file_cannot_be_written(first_start, store, key_file):
    key_file.error = StoreUnusableError("disk full")
    with pytest.raises(StoreUnusableError):
        first_start.ensure()
    assert store.state.tenants == {}
    key_file.error = None
    assert first_start.ensure() is not None


def test_crash_between_file_and_commit_is_mended_by_the_next_start(
    first_start, store, key_file, authenticator
):
    store.crashes_at_commit = True
    with pytest.raises(KeyboardInterrupt):
        first_start.ensure()
    assert key_file.content is not None
    assert store.state.keys == {}
    store.crashes_at_commit = False
    first_start.ensure()
    assert authenticator.authenticate(key_file.content).principal.ref == ADMIN


def test_reset_replaces_the_key_in_the_file(first_start, key_file, authenticator):
    first_start.ensure()
    old = key_file.content
    first_start.reset_admin_key()
    assert authenticator.authenticate(key_file.content).principal.ref == ADMIN
    with pytest.raises(KeyRevokedError):
        authenticator.authenticate(old)


def test_reset_leaves_other_admin_keys_alone(administrator, first_start, key_file, authenticator):
    other = administrator.create_key(NewKey(ADMIN)).value
    first_start.reset_admin_key()
    assert authenticator.authenticate(other.credential).key_id == other.key.id


def test_reset_sets_a_new_database_up(first_start, key_file, authenticator):
    first_start.reset_admin_key()
    assert authenticator.authenticate(key_file.content).principal.ref == ADMIN


def test_reset_works_after_its_key_was_revoked(administrator, first_start, key_file, authenticator):
    administrator.create_key(NewKey(ADMIN))
    administrator.revoke_key(Credential.parse(key_file.content).key_id)
    first_start.reset_admin_key()
    assert authenticator.authenticate(key_file.content).principal.ref == ADMIN
