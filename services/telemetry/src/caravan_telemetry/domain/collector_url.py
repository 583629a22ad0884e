"""Where another collector is, as an operator writes it."""

from urllib.parse import urlsplit

_DEFAULT_PORT = 4317


def collector_address(url: str) -> tuple[str, bool]:
    """host:port of `http://host:port` or `https://host:port`, and whether it is TLS.

    Raises:
        ValueError: it is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http://host:port, or https://host:port for TLS")
    if parts.username or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise ValueError("must have a scheme, a host and a port, and nothing else")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or _DEFAULT_PORT}", parts.scheme == "https"
