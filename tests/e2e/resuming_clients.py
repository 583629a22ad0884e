"""Clients that come back for the rest of a stream: the SDK, and one without it."""

import threading

import grpc

from caravan.gateway.v1 import stream_service_pb2 as stream_pb
from caravan.gateway.v1 import stream_service_pb2_grpc as stream_grpc
from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan_client import CaravanError, Delta, Started
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until

PROMPT = "Once upon a time there was a caravan that"


class Reader(threading.Thread):
    """Reads a stream by the SDK, and checks its accounting."""

    def __init__(self, client, request_id, **options):
        super().__init__(name=request_id)
        self.request_id = request_id
        self.stream = client.stream(
            PROMPT,
            **{
                "model": "bundled",
                "max_output_tokens": 400,
                "ignore_eos": True,
                "seed": 11,
                "request_id": request_id,
                "timeout_s": 120,
                **options,
            },
        )
        self.counts = {}
        self.num_started = 0
        self.error = None
        self.start()

    @property
    def num_tokens(self):
        return sum(self.counts.values())

    def run(self):
        try:
            for event in self.stream:
                self._take(event)
        except (CaravanError, AssertionError) as error:
            self.error = error

    def _take(self, event):
        match event:
            case Started():
                self.num_started += 1
            case Delta():
                assert event.token_offset == self.counts.get(event.choice_index, 0)
                self.counts[event.choice_index] = event.token_offset + len(event.token_ids)

    def await_tokens(self, count):
        wait_until(
            lambda: self.error or self.num_tokens >= count, timeout_s=60, what=f"{count} tokens"
        )

    def end(self):
        """Waits for the end, which must be a good one; returns the answer."""
        self.join(150)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        assert self.num_started == 1
        assert self.stream.generation.usage.output_tokens == self.num_tokens
        return self.stream.generation


class RawClient:
    """What a client does that has no SDK."""

    def __init__(self, address, key):
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.metadata = (("authorization", f"Bearer {key}"),)
        self._inference = inference_grpc.InferenceServiceStub(self.channel)
        self._streams = stream_grpc.StreamServiceStub(self.channel)

    def begin(self, request_id, **fields):
        request = pb.GenerateRequest(
            **{
                "model": "bundled",
                "text": PROMPT,
                "max_output_tokens": 300,
                "ignore_eos": True,
                "seed": 5,
                **fields,
            }
        )
        extra = (("x-request-id", request_id), ("x-caravan-resumable", "1"))
        return self._inference.StreamGenerate(
            request, metadata=(*self.metadata, *extra), timeout=120
        )

    def resume(self, request_id, *counts):
        request = stream_pb.ResumeGenerateRequest(
            model="bundled",
            request_id=request_id,
            choices=[stream_pb.ReceivedChoice(output_tokens=count) for count in counts],
        )
        return self._streams.ResumeGenerate(request, metadata=self.metadata, timeout=120)

    def cancel(self, request_id):
        request = stream_pb.CancelGenerateRequest(model="bundled", request_id=request_id)
        self._streams.CancelGenerate(request, metadata=self.metadata, timeout=20)


def read_tokens(call, count):
    """Reads a stream until it gave so many tokens; returns them."""
    tokens = []
    for event in call:
        given = event if isinstance(event, pb.GenerateEvent) else event.event
        tokens += given.delta.token_ids
        if len(tokens) >= count:
            return tokens
    raise AssertionError("the stream ended early")


def end_of(call):
    """Code and reason with which a call failed; None if it went well."""
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return error.code().name, error_details(error).reason
    return None


def reason_of(call):
    """The same of a call that must fail."""
    end = end_of(call)
    assert end is not None
    return end
