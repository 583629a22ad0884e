"""Serves `caravan.gateway.v1.StreamService`."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol, cast

from caravan.gateway.v1 import stream_service_pb2 as stream_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan_gateway.rpc.convert import AUTHORIZATION_KEY, resuming_call_from
from caravan_gateway.runtime.access import AccessGate
from caravan_gateway.runtime.forwarded_call import ForwardedCall
from caravan_gateway.runtime.inference_pipeline import InferencePipeline
from caravan_rpckit.call import Call


class KeptStreams(Protocol):
    """Streams that workers keep."""

    async def stop(
        self, request: stream_pb.CancelGenerateRequest, order: ForwardedCall
    ) -> stream_pb.CancelGenerateResponse:
        """Ends a stream for good."""
        ...


class StreamServicer:
    """Gives clients their streams back; `pipeline` is that of calls which resume."""

    def __init__(self, pipeline: InferencePipeline, gate: AccessGate, streams: KeptStreams) -> None:
        self._pipeline = pipeline
        self._gate = gate
        self._streams = streams

    async def ResumeGenerate(
        self, request: stream_pb.ResumeGenerateRequest, call: Call
    ) -> AsyncGenerator[stream_pb.ResumeGenerateResponse, None]:
        """Answers in events."""
        resuming = resuming_call_from(request, call, clock=time.monotonic, wall_clock=time.time)
        async with aclosing(self._pipeline.run(resuming)) as events:
            async for event in events:
                payload = cast(generation_pb.GenerateEvent, event.payload)
                yield stream_pb.ResumeGenerateResponse(event=payload)

    async def CancelGenerate(
        self, request: stream_pb.CancelGenerateRequest, call: Call
    ) -> stream_pb.CancelGenerateResponse:
        """Ends a stream."""
        credential, model = call.metadata.get(AUTHORIZATION_KEY), request.model
        async with self._gate.passed(call.method, credential, call.end, model) as (_, identity):
            order = ForwardedCall(
                call.method, identity, call.request_id, call.time_remaining(), model
            )
            return await self._streams.stop(request, order)
