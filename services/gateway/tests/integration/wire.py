"""A connection that can be cut and frozen."""

import asyncio


class Wire:
    """A TCP relay in front of a server, so that its connections can be cut as by a death."""

    def __init__(self, port):
        self._target = port
        self._server = None
        self._writers = set()
        self._tasks = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def freeze(self):
        """Passes nothing on, and says nothing either: packets are lost, connections stay."""
        self._flows.clear()

    def thaw(self):
        """Passes everything on again, also what came meanwhile."""
        self._flows.set()

    async def start(self):
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self):
        """Ends all connections at once and takes no new ones, until it is started again."""
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        self._flows.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader, writer):
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(
                "127.0.0.1", self._target
            )
        except OSError:
            writer.transport.abort()
            return
        pairs = ((reader, upstream_writer), (upstream_reader, writer))
        self._writers |= {writer, upstream_writer}
        for source, target in pairs:
            task = asyncio.create_task(_pump(source, target, self._flows))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _pump(reader, writer, flows):
    try:
        while data := await reader.read(65_536):
            await flows.wait()
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
