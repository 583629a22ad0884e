"""The server that clients call."""

from caravan_gateway.config import ServerSettings
from caravan_rpckit.observers import CallObserver
from caravan_rpckit.server import RpcServer
from caravan_rpckit.tls import PublicTls
from caravan_rpckit.tracing import CallTracing


def make_public_server(
    settings: ServerSettings, observer: CallObserver, tracing: CallTracing
) -> RpcServer:
    """Returns it without services; it names each call to its client."""
    tls = None
    if settings.tls_certificate_path is not None and settings.tls_key_path is not None:
        tls = PublicTls(settings.tls_certificate_path, settings.tls_key_path)
    return RpcServer(
        settings.address,
        tls=tls,
        observers=(observer,),
        announce_request_id=True,
        tracing=tracing,
    )
