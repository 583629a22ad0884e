"""Workers behind wires, and streams that are read while something happens to these."""

import grpc.aio
from wire import Wire

from caravan.model.v1 import model_pb2


class Fleet:
    """Workers behind wires that can be cut, and the host that tells of them."""

    def __init__(self, engine, make_worker):
        self.engine = engine
        self._make_worker = make_worker
        self.workers = {}
        self.wires = {}

    async def add(self, worker_id, *, digest="d" * 64):
        worker = self.workers[worker_id] = await self._make_worker()
        wire = self.wires[worker_id] = Wire(worker.port)
        await wire.start()
        self.engine.set_endpoint(
            worker_id, wire.address, replica_index=len(self.wires), digest=digest
        )
        self.engine.set_model("tiny")
        self.engine.announce()
        return worker

    async def kill(self, worker_id):
        """The process dies, and its host says so."""
        await self.wires.pop(worker_id).cut()
        del self.engine.endpoints[worker_id]
        if not self.engine.endpoints:
            state = model_pb2.REPLICA_STATE_RESTARTING
            self.engine.set_model("tiny", "LOADING", replicas=[model_pb2.Replica(state=state)])
        self.engine.announce()


async def rest_of(call):
    """Reads on; a call of gRPC is iterated over once only."""
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events


async def begun(client, text="60", **fields):
    """A stream, and its events up to the fifth token."""
    call, events = client.stream(text, **fields), []
    while not events or events[-1].delta.token_offset < 4:
        events.append(await call.read())
    return call, events


def check_whole(events, num_tokens):
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["delta"] * num_tokens, "finished", "completed"]
    offsets = [event.delta.token_offset for event in events[1:-2]]
    assert offsets == list(range(num_tokens))
    assert events[-1].completed.usage.output_tokens == num_tokens
