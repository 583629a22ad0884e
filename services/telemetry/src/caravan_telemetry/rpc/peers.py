"""Which service may call which method, where they differ within one service."""

from caravan_rpckit.call import Call
from caravan_rpckit.refusals import PeerNotAllowedError


def require_peer(call: Call, *services: str) -> None:
    """Lets only `services` go on.

    Raises:
        PeerNotAllowedError: the caller's certificate names another service.
    """
    if call.peer not in services:
        raise PeerNotAllowedError(
            f"Only the {' and the '.join(services)} may call this internal method.",
            metadata={"peer": call.peer or "", "method": call.method},
        )
