"""A gateway without models behind it, whose answers a test can choose."""

import asyncio
import threading
from collections.abc import AsyncIterator

from fake_administration import FakeAdministration
from fake_answers import DIGEST

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.inference.v1 import inference_service_pb2 as inference_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan.model.v1 import model_service_pb2 as model_service_pb
from caravan.policy.v1 import policy_admin_service_pb2 as policy_pb
from caravan.telemetry.v1 import trace_query_service_pb2 as trace_query_pb
from caravan_rpckit.call import Call
from caravan_rpckit.errors import CaravanError
from caravan_rpckit.server import RpcServer
from caravan_rpckit.tls import PublicTls


class FakeGateway(FakeAdministration):
    """Serves the public contracts; tests read and write its attributes.

    Attributes:
        pieces: what a generation answers, one delta each.
        fail_after: raised in a stream after its pieces.
        endless: keep a generation going, a stream after its pieces, until the client leaves.
        waiting: set when a client waits for an endless unary call.
        left: set when a client has left an endless call.
    """

    def __init__(self, tls: PublicTls | None = None):
        super().__init__()
        self.pieces = ["Once ", "upon ", "a time"]
        self.fail_after: CaravanError | None = None
        self.without_end = False
        self.endless = False
        self.waiting = threading.Event()
        self.left = threading.Event()
        self.finish = generation_pb.FINISH_REASON_END_OF_TEXT
        self._server = RpcServer("127.0.0.1:0", tls=tls, announce_request_id=True)
        for descriptor in (
            inference_pb.DESCRIPTOR.services_by_name["InferenceService"],
            model_service_pb.DESCRIPTOR.services_by_name["ModelService"],
            policy_pb.DESCRIPTOR.services_by_name["PolicyAdminService"],
            gateway_pb.DESCRIPTOR.services_by_name["GatewayAdminService"],
            trace_query_pb.DESCRIPTOR.services_by_name["TraceQueryService"],
        ):
            self._server.add(self, descriptor)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.port}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    async def Generate(self, request, call: Call):
        self._admit(request, call)
        if self.endless:
            await self._until_client_leaves()
        text = "".join(self.pieces)
        response = generation_pb.GenerateResponse(
            request_id=call.request_id, model="alpha", model_digest=DIGEST, seed=request.seed or 7
        )
        for index in range(request.choice_count or 1):
            response.choices.add(
                index=index, text=text, token_ids=[1, 2, 3], finish_reason=self.finish
            )
        response.usage.CopyFrom(self._usage())
        return response

    async def StreamGenerate(self, request, call: Call) -> AsyncIterator:
        self._admit(request, call)
        try:
            async for event in self._events(request, call):
                yield event
        finally:
            if self.endless:
                self.left.set()

    async def _events(self, request, call: Call) -> AsyncIterator:
        started = generation_pb.Started(
            request_id=call.request_id,
            model="alpha",
            model_digest=DIGEST,
            seed=request.seed or 7,
            input_tokens=4,
        )
        yield generation_pb.GenerateEvent(started=started)
        yield generation_pb.GenerateEvent()  # a kind of event that this client does not know
        for offset, piece in enumerate(self.pieces):
            delta = generation_pb.Delta(text=piece, token_ids=[offset + 1], token_offset=offset)
            if request.HasField("logprobs"):
                best = delta.logprobs.add(logprob=-0.5).top
                best.add(token_id=offset + 1, text=piece, logprob=-0.5)
            yield generation_pb.GenerateEvent(delta=delta)
        if self.endless:
            await asyncio.Event().wait()
        if self.fail_after is not None:
            raise self.fail_after
        if self.without_end:
            return
        finished = generation_pb.Finished(finish_reason=self.finish, output_tokens=3)
        yield generation_pb.GenerateEvent(finished=finished)
        completed = generation_pb.Completed(usage=self._usage())
        yield generation_pb.GenerateEvent(completed=completed)

    async def Embed(self, request, call: Call):
        self._admit(request, call)
        response = embedding_pb.EmbedResponse(
            request_id=call.request_id,
            model="alpha",
            model_digest=DIGEST,
            pooling=embedding_pb.POOLING_MEAN,
            usage=self._usage(),
        )
        for index, _ in enumerate(request.inputs):
            response.embeddings.add(values=[float(index), 1.0], input_tokens=4)
        return response

    async def Tokenize(self, request, call: Call):
        self._admit(request, call)
        return tokenization_pb.TokenizeResponse(ids=[5, 6, 7])

    async def Detokenize(self, request, call: Call):
        self._admit(request, call)
        return tokenization_pb.DetokenizeResponse(text="".join(chr(96 + i) for i in request.ids))

    async def _until_client_leaves(self) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    def _usage(self) -> generation_pb.Usage:
        return generation_pb.Usage(input_tokens=4, cached_tokens=1, output_tokens=3)
