"""host:port as a type of setting, the same in every service."""

from typing import Annotated

from pydantic import AfterValidator

_HIGHEST_PORT = 65_535


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port of `host:port`.

    Raises:
        ValueError: it is not such an address.
    """
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    if not bare or not port.isdecimal() or int(port) > _HIGHEST_PORT:
        raise ValueError(f"must be host:port, with a port up to {_HIGHEST_PORT}")
    if ":" in bare and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address needs brackets, as in [::1]:50051")
    return bare, int(port)


def _checked(address: str) -> str:
    split_address(address)
    return address


Address = Annotated[str, AfterValidator(_checked)]
"""`host:port`; IPv6 in brackets."""
