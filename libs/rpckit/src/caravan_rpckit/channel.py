"""Client channels between services."""

from dataclasses import dataclass

import grpc
import grpc.aio

from caravan_rpckit.tls import TlsIdentity


@dataclass(frozen=True, slots=True)
class Keepalive:
    """When a silent connection is asked for a sign of life, and how long that may take.

    Seconds. Servers forbid pings that come faster than they like; see `server.py` for ours.
    """

    after_s: float = 20.0
    timeout_s: float = 10.0


_DEFAULT_KEEPALIVE = Keepalive()


def open_channel(
    address: str,
    *,
    tls: TlsIdentity | None = None,
    server_name: str | None = None,
    response_limit_bytes: int = 16 * 1024 * 1024,
    keepalive: Keepalive = _DEFAULT_KEEPALIVE,
) -> grpc.aio.Channel:
    """Opens a channel that reconnects by itself; connecting happens at the first call.

    Args:
        address: host:port.
        tls: who we are; None for plaintext.
        server_name: the service whose certificate must answer, such as `policy`; needed where
            `address` is not named in its certificate.
        response_limit_bytes: messages over this size fail the call.
        keepalive: how soon it is noticed that the other end can't be reached any more.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", response_limit_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", round(1000 * keepalive.after_s)),
        ("grpc.keepalive_timeout_ms", round(1000 * keepalive.timeout_s)),
        # Without it gRPC waits a minute for its ping, whatever the other one says (measured).
        ("grpc.http2.ping_timeout_ms", round(1000 * keepalive.timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),  # a stream that is only read sends none
        ("grpc.initial_reconnect_backoff_ms", 100),
        # In spite of its name how long connecting may take, TLS included. A refused connection is
        # tried again sooner; a busy machine needs more than the pause between attempts.
        ("grpc.min_reconnect_backoff_ms", 3_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.aio.secure_channel(address, tls.channel_credentials(), options=options)
