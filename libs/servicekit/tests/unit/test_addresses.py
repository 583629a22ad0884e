import pytest

from caravan_servicekit.addresses import split_address


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("engine:0", ("engine", 0)),
        ("[::1]:9090", ("::1", 9090)),
    ],
)
def test_an_address_is_host_and_port(address, parts):
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "9090", ":9090", "host:", "host:x", "host:65536", "::1:5"])
def test_anything_else_is_refused(address):
    with pytest.raises(ValueError, match=r"must be host:port|needs brackets"):
        split_address(address)
