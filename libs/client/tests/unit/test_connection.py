from pathlib import Path

import pytest

from caravan_client.connection import (
    Connection,
    Tls,
    find_api_key,
    is_loopback,
    parse_address,
    resolve_connection,
)
from caravan_client.errors import ConfigurationError, NoCredentialError


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("localhost:1", "localhost:1"),
        ("gateway.example", "gateway.example:50051"),
        (" 10.0.0.1:80 ", "10.0.0.1:80"),
        ("[::1]", "[::1]:50051"),
        ("[fe80::1%eth0]:7", "[fe80::1%eth0]:7"),
        ("unix:/run/caravan.sock", "unix:/run/caravan.sock"),
    ],
)
def test_address_gets_a_port(given, meant):
    assert parse_address(given) == meant


@pytest.mark.parametrize(
    "given", ["", ":1", "host:", "host:0", "host:65536", "http://host:1", "::1", "a b", "unix:"]
)
def test_what_is_no_address_is_refused(given):
    with pytest.raises(ConfigurationError, match="host:port"):
        parse_address(given)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost:1", True),
        ("LOCALHOST:1", True),
        ("a.localhost:1", True),
        ("127.8.9.1:1", True),
        ("[::1]:1", True),
        ("unix:/run/x", True),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
    ],
)
def test_loopback_is_recognised(address, expected):
    assert is_loopback(address) is expected


def test_only_this_machine_is_called_in_plaintext_by_default():
    assert resolve_connection("localhost:1", "k", None, {}).tls is None
    assert resolve_connection("gateway.example:1", "k", None, {}).tls == Tls()
    assert resolve_connection("gateway.example:1", "k", False, {}).tls is None
    assert resolve_connection("localhost:1", "k", True, {}).tls == Tls()


def test_address_is_given_or_in_the_environment_or_the_default():
    environment = {"CARAVAN_ADDRESS": "localhost:7"}
    assert resolve_connection("localhost:8", "k", None, environment).address == "localhost:8"
    assert resolve_connection(None, "k", None, environment).address == "localhost:7"
    assert resolve_connection(None, "k", None, {}).address == "localhost:50051"


def test_key_of_the_environment_goes_before_that_of_the_home(tmp_path: Path):
    (tmp_path / "admin.key").write_text("file-key\n")
    home = {"CARAVAN_HOME": str(tmp_path)}
    assert find_api_key({**home, "CARAVAN_API_KEY": "env-key"}) == "env-key"
    assert find_api_key({**home, "CARAVAN_API_KEY": "  "}) == "file-key"


def test_home_is_in_the_working_directory_by_default(tmp_path: Path, monkeypatch):
    (tmp_path / ".caravan").mkdir()
    (tmp_path / ".caravan" / "admin.key").write_text("file-key")
    monkeypatch.chdir(tmp_path)
    assert find_api_key({}) == "file-key"


def test_missing_key_names_the_places(tmp_path: Path):
    with pytest.raises(NoCredentialError) as caught:
        find_api_key({"CARAVAN_HOME": str(tmp_path)})
    assert "CARAVAN_API_KEY" in caught.value.message
    assert str(tmp_path / "admin.key") in caught.value.message
    assert caught.value.reason == "NO_CREDENTIAL"


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "empty"), (b"\xff\xfe", "cannot be read"), (None, "cannot be read")],
)
def test_unusable_key_file_is_explained(tmp_path: Path, content, fault):
    path = tmp_path / "admin.key"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(NoCredentialError, match=fault):
        find_api_key({"CARAVAN_HOME": str(tmp_path)})


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "ключ", ""])
def test_key_that_no_header_can_carry_is_refused_without_showing_it(key):
    with pytest.raises(ConfigurationError) as caught:
        Connection("localhost:1", key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("settings", [{"timeout_s": 0}, {"timeout_s": -1}, {"max_retries": -1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigurationError):
        Connection("localhost:1", "k", **settings)


def test_key_is_in_no_representation():
    assert "secret-key" not in repr(Connection("localhost:1", "secret-key"))
