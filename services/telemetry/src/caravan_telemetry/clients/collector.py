"""An OpenTelemetry collector elsewhere, to which spans are passed on."""

import grpc
import grpc.aio

from caravan_obskit.otlp import OtlpSender
from caravan_rpckit.channel import open_channel
from caravan_telemetry.domain.collector_url import collector_address

_TIMEOUT_S = 10.0


def open_collector(url: str) -> tuple[grpc.aio.Channel, OtlpSender]:
    """Opens a channel, which whoever asked for it closes, and what sends over it."""
    address, encrypted = collector_address(url)
    if encrypted:
        channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials())
    else:
        channel = open_channel(address)
    return channel, OtlpSender(channel, timeout_s=_TIMEOUT_S)
