"""What the services played around the gateway share: small servers with real mutual TLS."""

from caravan_rpckit.errors import CaravanError, Reason
from caravan_rpckit.server import DEFAULT_REQUEST_LIMIT_BYTES, RpcServer
from caravan_rpckit.tls import TlsIdentity


class RefusedError(CaravanError):
    def __init__(self, reason: Reason, **details):
        super().__init__("Refused by a fake.", **details)
        self.reason = reason


class FakeServer:
    """Starts on a free port, and after a stop on the same one again."""

    request_limit_bytes = DEFAULT_REQUEST_LIMIT_BYTES

    def __init__(self, home, service):
        self._tls = TlsIdentity.in_home(home, service)
        self._server = None
        self.port = 0

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def add_to(self, server):
        raise NotImplementedError

    async def start(self):
        self._server = RpcServer(
            f"127.0.0.1:{self.port}",
            tls=self._tls,
            request_limit_bytes=self.request_limit_bytes,
        )
        self.add_to(self._server)
        await self._server.start()
        self._server.set_all_serving(True)
        self.port = self._server.port

    async def stop(self, grace_s=0):
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(grace_s)
