"""The keyword arguments that both clients are made with."""

from dataclasses import replace
from typing import TypedDict

from caravan_client.connection import Connection, Tls, resolve_connection
from caravan_client.keywords import check_keywords


class ClientSettings(TypedDict, total=False):
    """Keyword arguments of `Caravan` and `AsyncCaravan`."""

    api_key: str | None
    """Else `CARAVAN_API_KEY`, else what `admin.key` in `CARAVAN_HOME` (./.caravan) holds."""
    tls: Tls | bool | None
    """None is plaintext to this machine and TLS to any other; False is plaintext to anywhere."""
    timeout_s: float | None
    """Most seconds for a call with its retries; 600 when left out, None is without limit."""
    max_retries: int
    """How often a call that meets UNAVAILABLE before its first answer is repeated; 2."""


def connection_of(address: str | None, settings: ClientSettings) -> Connection:
    """Fills in what was left out.

    Raises:
        ConfigurationError: a setting cannot be used, or no API key was found.
        TypeError: there is no such setting.
    """
    check_keywords(settings, ClientSettings)
    connection = resolve_connection(address, settings.get("api_key"), settings.get("tls"))
    return replace(
        connection,
        timeout_s=settings.get("timeout_s", connection.timeout_s),
        max_retries=settings.get("max_retries", connection.max_retries),
    )
