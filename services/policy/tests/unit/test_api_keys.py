import math
from datetime import UTC, datetime, timedelta

import pytest

from caravan_policy.domain.api_keys import ApiKey, Credential, KeyState, is_key_id
from caravan_policy.domain.principals import PrincipalRef

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _key(**times: datetime) -> ApiKey:
    return ApiKey("abcdefghijkl", PrincipalRef("default", "alice"), "", NOW, **times)


def test_minted_credential_can_be_parsed_and_has_256_random_bits():
    minted = Credential.mint()
    assert Credential.parse(minted.text) == minted
    prefix, key_id, secret = minted.text.split("_")
    assert prefix == "cvn"
    assert is_key_id(key_id)
    assert len(secret) * math.log2(62) >= 256


def test_no_two_minted_credentials_are_alike():
    assert len({Credential.mint().text for _ in range(200)}) == 200


def test_repr_and_text_of_a_credential_hide_the_secret():
    minted = Credential.mint()
    secret = minted.text.split("_")[2]
    assert secret not in repr(minted)
    assert secret not in str(minted)
    assert minted.key_id in str(minted)


def test_hash_depends_on_the_whole_credential():
    minted = Credential.mint()
    other_id = Credential(minted.key_id, minted.text.replace(minted.key_id, "a" * 12))
    assert minted.sha256 != other_id.sha256
    assert len(minted.sha256) == 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cvn",
        "cvn__",
        "Bearer " + Credential.mint().text,
        Credential.mint().text + "\n",
        " " + Credential.mint().text,
        Credential.mint().text[:-1],
        Credential.mint().text + "a",
        Credential.mint().text.upper(),
        Credential.mint().text.replace("cvn", "xyz"),
        "cvn_abcdefghijkl_" + "ä" * 43,
        "a" * 100_000,
    ],
)
def test_what_is_not_of_the_form_is_no_credential(text):
    assert Credential.parse(text) is None


def test_key_works_until_the_moment_of_its_expiry():
    key = _key(expire_time=NOW + timedelta(seconds=5))
    assert key.state(NOW + timedelta(seconds=4.999)) is KeyState.ACTIVE
    assert key.state(NOW + timedelta(seconds=5)) is KeyState.EXPIRED


def test_revoked_outweighs_expired():
    key = _key(expire_time=NOW, revoke_time=NOW)
    assert key.state(NOW) is KeyState.REVOKED
