"""Where the gateway is, how to reach it and with which key.

Owns the rules by which address, key and TLS are found; opens no connection.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from caravan_client.errors import ConfigurationError, ErrorDetails, NoCredentialError

DEFAULT_ADDRESS = "localhost:50051"
DEFAULT_PORT = 50051
DEFAULT_TIMEOUT_S = 600.0
DEFAULT_MAX_RETRIES = 2

_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\[\]/\s]+\]|[^:/\s\[\]]+)(?::(?P<port>\d{1,5}))?")
_KEY = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Tls:
    """How to check the gateway's certificate, and which one to show.

    Attributes:
        ca_path: certificates to trust, PEM; the system's when None.
        certificate_path: our own certificate, PEM, for a gateway that asks for one.
        key_path: its private key, PEM.
        server_name: the name the gateway's certificate has, where it is not that of the address.
    """

    ca_path: Path | str | None = None
    certificate_path: Path | str | None = None
    key_path: Path | str | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """Everything needed to call the gateway; `tls` None is plaintext."""

    address: str
    api_key: str = field(repr=False)
    tls: Tls | None = None
    timeout_s: float | None = DEFAULT_TIMEOUT_S
    max_retries: int = DEFAULT_MAX_RETRIES

    def __post_init__(self) -> None:
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise _misconfigured("the timeout must be above 0 seconds")
        if self.max_retries < 0:
            raise _misconfigured("the number of retries must not be negative")
        if not _KEY.fullmatch(self.api_key):
            raise _misconfigured("the API key holds spaces or other characters that no key has")


def resolve_connection(
    address: str | None = None,
    api_key: str | None = None,
    tls: Tls | bool | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Connection:
    """Fills in what was not given from the environment and the defaults.

    Args:
        address: host:port; else `CARAVAN_ADDRESS`, else localhost:50051.
        api_key: else found as in `find_api_key`.
        tls: True is TLS with the system's certificates, False is plaintext. None is plaintext to
            this machine and TLS to any other, so that no key travels in the open by accident.
        environment: where to look for variables.

    Raises:
        ConfigurationError: something cannot be used, or there is no key.
    """
    target = parse_address(address or environment.get("CARAVAN_ADDRESS") or DEFAULT_ADDRESS)
    if tls is None:
        tls = not is_loopback(target)
    if isinstance(tls, bool):
        tls = Tls() if tls else None
    return Connection(target, api_key or find_api_key(environment), tls)


def find_api_key(environment: Mapping[str, str] = os.environ) -> str:
    """Returns `CARAVAN_API_KEY`, else what `admin.key` in `CARAVAN_HOME` (./.caravan) holds.

    Raises:
        NoCredentialError: there is neither; it says where was looked.
    """
    if key := environment.get("CARAVAN_API_KEY", "").strip():
        return key
    path = Path(environment.get("CARAVAN_HOME") or ".caravan") / "admin.key"
    try:
        key = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        fault = "which does not exist"
    except (OSError, UnicodeDecodeError) as error:
        fault = f"which cannot be read ({_cause(error)})"
    else:
        if key:
            return key
        fault = "which is empty"
    raise NoCredentialError(
        f"no API key: none was given, CARAVAN_API_KEY is not set, and the last place is "
        f"{path.absolute()}, {fault}",
        ErrorDetails(reason="NO_CREDENTIAL"),
    )


def parse_address(address: str) -> str:
    """Returns `address` with a port.

    Raises:
        ConfigurationError: it is no host:port and no `unix:` path.
    """
    text = address.strip()
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    match = _HOST_AND_PORT.fullmatch(text)
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise _misconfigured(
            f"{address!r} is no address of a gateway; write host:port, such as {DEFAULT_ADDRESS}"
        )
    return f"{match['host']}:{port}"


def is_loopback(address: str) -> bool:
    """Whether `address` leads to this machine whatever the network is."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cause(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "error") if isinstance(error, OSError) else "not a text"


def _misconfigured(message: str) -> ConfigurationError:
    return ConfigurationError(message, ErrorDetails(reason="INVALID_CONFIGURATION"))
