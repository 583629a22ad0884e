from datetime import timedelta

import pytest

from caravan_policy.domain.administrator import NewKey, NewPrincipal
from caravan_policy.domain.api_keys import Credential
from caravan_policy.domain.authenticator import AuthenticationOutcome, Authenticator
from caravan_policy.domain.errors import (
    InvalidCredentialError,
    KeyExpiredError,
    KeyRevokedError,
)
from caravan_policy.domain.principals import PrincipalRef

ALICE = PrincipalRef("default", "alice")


class Lookups:
    """Counts what the authenticator reads."""

    def __init__(self, store):
        self._store = store
        self.key_ids = []

    def find_credential(self, key_id):
        self.key_ids.append(key_id)
        return self._store.find_credential(key_id)


@pytest.fixture
def outcomes():
    return []


@pytest.fixture
def lookups(store):
    return Lookups(store)


@pytest.fixture
def authenticator(lookups, now, outcomes):
    return Authenticator(lookups, now, outcomes.append)


@pytest.fixture
def issue(administrator):
    administrator.create_principal(NewPrincipal(ALICE, ("user", "readonly")))

    def issue(ttl_s=None):
        ttl_us = None if ttl_s is None else ttl_s * 1_000_000
        return administrator.create_key(NewKey(ALICE, time_to_live_us=ttl_us)).value

    return issue


def _wrong(credential):
    last = "a" if credential[-1] != "a" else "b"
    return credential[:-1] + last


def test_right_secret_gives_the_principal_with_roles_and_cap(authenticator, issue, store, now):
    issued = issue(ttl_s=60)
    found = authenticator.authenticate(issued.credential)
    assert found.principal.ref == ALICE
    assert found.principal.roles == ("readonly", "user")
    assert found.principal.priority_cap == 10
    assert found.key_id == issued.key.id
    assert found.expire_time == now() + timedelta(seconds=60)
    assert found.policy_version == store.state.version


def test_every_way_of_not_knowing_the_secret_looks_the_same(authenticator, issue):
    credential = issue().credential
    attempts = ["", "nonsense", Credential.mint().text, _wrong(credential)]
    faults = []
    for attempt in attempts:
        with pytest.raises(InvalidCredentialError) as caught:
            authenticator.authenticate(attempt)
        faults.append((caught.value.reason, caught.value.message, dict(caught.value.metadata)))
    assert all(fault == faults[0] for fault in faults)
    assert faults[0][2] == {}


def test_unknown_key_is_looked_up_like_a_known_one(authenticator, lookups, issue):
    unknown = Credential.mint()
    with pytest.raises(InvalidCredentialError):
        authenticator.authenticate(unknown.text)
    assert lookups.key_ids == [unknown.key_id]


def test_wrong_secret_does_not_reveal_that_a_key_was_revoked_or_has_expired(
    authenticator, issue, administrator, fake_clock
):
    revoked, expired = issue(), issue(ttl_s=1)
    administrator.revoke_key(revoked.key.id)
    fake_clock.advance(2)
    for issued in (revoked, expired):
        with pytest.raises(InvalidCredentialError):
            authenticator.authenticate(_wrong(issued.credential))


def test_right_secret_of_an_expired_key_is_told_so(authenticator, issue, fake_clock):
    issued = issue(ttl_s=60)
    fake_clock.advance(60)
    with pytest.raises(KeyExpiredError) as caught:
        authenticator.authenticate(issued.credential)
    assert caught.value.metadata == {"key_id": issued.key.id}


def test_right_secret_of_a_revoked_key_is_told_so(authenticator, issue, administrator):
    issued = issue()
    administrator.revoke_key(issued.key.id)
    with pytest.raises(KeyRevokedError):
        authenticator.authenticate(issued.credential)


def test_each_outcome_is_counted(authenticator, issue, administrator, outcomes, fake_clock):
    good, revoked, expired = issue(), issue(), issue(ttl_s=1)
    administrator.revoke_key(revoked.key.id)
    fake_clock.advance(2)
    authenticator.authenticate(good.credential)
    for credential, error in (
        ("nonsense", InvalidCredentialError),
        (revoked.credential, KeyRevokedError),
        (expired.credential, KeyExpiredError),
    ):
        with pytest.raises(error):
            authenticator.authenticate(credential)
    assert outcomes == [
        AuthenticationOutcome.ACCEPTED,
        AuthenticationOutcome.INVALID,
        AuthenticationOutcome.REVOKED,
        AuthenticationOutcome.EXPIRED,
    ]


def test_secret_is_in_no_error_and_no_repr(authenticator, issue, store, administrator):
    issued = issue()
    secret = issued.credential.split("_")[2]
    stored = store.find_credential(issued.key.id)
    administrator.revoke_key(issued.key.id)
    with pytest.raises(KeyRevokedError) as revoked:
        authenticator.authenticate(issued.credential)
    with pytest.raises(InvalidCredentialError) as wrong:
        authenticator.authenticate(_wrong(issued.credential))
    shown = [repr(issued), repr(stored), repr(revoked.value), repr(wrong.value), repr(store.state)]
    assert not any(secret[:20] in text for text in shown)
    assert stored.sha256 not in repr(stored)
