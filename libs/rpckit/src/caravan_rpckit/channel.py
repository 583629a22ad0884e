"""Client channels between services."""

import grpc
import grpc.aio

from caravan_rpckit.tls import TlsIdentity

# The client waits longer than servers forbid pings for; see `server.py`.
KEEPALIVE_MS = 20_000


def open_channel(
    address: str,
    *,
    tls: TlsIdentity | None = None,
    server_name: str | None = None,
    response_limit_bytes: int = 16 * 1024 * 1024,
) -> grpc.aio.Channel:
    """Opens a channel that reconnects by itself; connecting happens at the first call.

    Args:
        address: host:port.
        tls: who we are; None for plaintext.
        server_name: the service whose certificate must answer, such as `policy`; needed where
            `address` is not named in its certificate.
        response_limit_bytes: messages over this size fail the call.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", response_limit_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.aio.secure_channel(address, tls.channel_credentials(), options=options)
