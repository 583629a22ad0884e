"""Which service may call which method, where they differ within one service."""

from caravan_rpckit.call import Call
from caravan_rpckit.refusals import PeerNotAllowedError


def require_peer(call: Call, service: str) -> None:
    """Lets only `service` go on.

    Raises:
        PeerNotAllowedError: the caller's certificate names another service.
    """
    if call.peer != service:
        raise PeerNotAllowedError(
            f"Only the {service} may call this internal method.",
            metadata={"peer": call.peer or "", "method": call.method},
        )
