import hashlib

import pytest

from caravan_gateway.domain.errors import InvalidCredentialError
from caravan_gateway.domain.principal import Credential


@pytest.mark.parametrize("header", ["Bearer cvn_x", "bearer   cvn_x", "BEARER cvn_x  "])
def test_a_bearer_credential_is_read(header):
    credential = Credential.parse(header)
    assert credential.text == "cvn_x"
    assert credential.digest == hashlib.sha256(b"cvn_x").digest()


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", "Bearercvn_x", "Basic cvn_x", "Bearer a b"),
        *("Bearer ü", "Bearer a\nb", "Bearer " + "x" * 1025),
    ],
)
def test_anything_else_is_no_credential(header):
    with pytest.raises(InvalidCredentialError):
        Credential.parse(header)


def test_a_credential_does_not_show_itself():
    assert "cvn" not in repr(Credential.parse("Bearer cvn_x"))
