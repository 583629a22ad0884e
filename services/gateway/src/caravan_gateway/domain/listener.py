"""Whether an address may be listened on without TLS."""

import ipaddress

from caravan_gateway.domain.errors import InsecureListenerError


def require_safe_listener(address: str, *, encrypted: bool, allow_plaintext: bool) -> None:
    """Returns when keys and prompts cannot be read on the way to `address` (host:port).

    A name other than `localhost` counts as reachable from elsewhere: what it resolves to may
    change.

    Raises:
        InsecureListenerError: they could be.
    """
    if encrypted or allow_plaintext or _is_loopback(address):
        return
    raise InsecureListenerError(address)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
