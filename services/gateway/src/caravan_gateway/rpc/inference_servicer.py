"""Serves `caravan.inference.v1.InferenceService`."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan_gateway.domain.inference_call import InferenceCall, RunEvent
from caravan_gateway.rpc.convert import inference_call_from
from caravan_gateway.rpc.convert_specs import InferenceRequest
from caravan_gateway.rpc.response_collector import ResponseCollector
from caravan_gateway.runtime.inference_pipeline import InferencePipeline
from caravan_rpckit.call import Call


class InferenceServicer:
    """All methods run the same pipeline; `Generate` collects what `StreamGenerate` streams."""

    def __init__(self, pipeline: InferencePipeline, *, max_response_bytes: int) -> None:
        self._pipeline = pipeline
        self._max_response_bytes = max_response_bytes

    async def Generate(
        self, request: generation_pb.GenerateRequest, call: Call
    ) -> generation_pb.GenerateResponse:
        """Answers when the whole text is there."""
        collector = ResponseCollector(self._max_response_bytes)

        def collect(event: RunEvent) -> None:
            collector.add(cast(generation_pb.GenerateEvent, event.payload))

        inference = self._inference_call(request, call)
        async with aclosing(self._pipeline.run(inference, collect)) as events:
            async for _ in events:
                pass
        return collector.response()

    async def StreamGenerate(
        self, request: generation_pb.GenerateRequest, call: Call
    ) -> AsyncGenerator[generation_pb.GenerateEvent, None]:
        """Answers in events."""
        inference = self._inference_call(request, call)
        async with aclosing(self._pipeline.run(inference)) as events:
            async for event in events:
                yield cast(generation_pb.GenerateEvent, event.payload)

    async def Embed(
        self, request: embedding_pb.EmbedRequest, call: Call
    ) -> embedding_pb.EmbedResponse:
        """Turns texts into vectors."""
        return cast(embedding_pb.EmbedResponse, await self._answer(request, call))

    async def Tokenize(
        self, request: tokenization_pb.TokenizeRequest, call: Call
    ) -> tokenization_pb.TokenizeResponse:
        """Splits a text or a chat."""
        return cast(tokenization_pb.TokenizeResponse, await self._answer(request, call))

    async def Detokenize(
        self, request: tokenization_pb.DetokenizeRequest, call: Call
    ) -> tokenization_pb.DetokenizeResponse:
        """Writes tokens out."""
        return cast(tokenization_pb.DetokenizeResponse, await self._answer(request, call))

    async def _answer(self, request: InferenceRequest, call: Call) -> object:
        """The payload of the only event of a call that isn't streamed."""
        answer: object = None
        async with aclosing(self._pipeline.run(self._inference_call(request, call))) as events:
            async for event in events:
                answer = event.payload
        return answer

    def _inference_call(self, request: InferenceRequest, call: Call) -> InferenceCall:
        return inference_call_from(request, call, clock=time.monotonic, wall_clock=time.time)
