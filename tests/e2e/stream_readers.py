"""Streams that are read in threads, and what tests of lost workers begin with."""

import threading
from dataclasses import dataclass, field

import grpc

from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan_testkit.waiting import wait_until

SETTINGS = {
    "CARAVAN_ENGINE__CONTEXT__THREADS": "1",
    # From 64 tokens in a step llama.cpp computes attention by another kernel, whose rounding lets
    # drawn texts part after some ten tokens. With fewer, recomputing is exact.
    "CARAVAN_ENGINE__CONTEXT__TOKEN_BUDGET": "48",
    "CARAVAN_ENGINE__WORKERS__STABLE_AFTER_S": "0",  # each restart is as quick as the first
    "CARAVAN_ENGINE__WORKERS__HANG_TIMEOUT_S": "6",
    "CARAVAN_ENGINE__WORKERS__DRAIN_TIMEOUT_S": "1",
    "CARAVAN_GATEWAY__FAILOVER__POISON_WINDOW_S": "20",
}
SAMPLING = {
    "greedy": pb.SamplingOptions(temperature=0),
    "drawn": pb.SamplingOptions(temperature=1),
    "penalties": pb.SamplingOptions(
        temperature=1, repeat_penalty=1.2, dry=pb.DryOptions(multiplier=0.8)
    ),
    "xtc": pb.SamplingOptions(temperature=1, xtc=pb.XtcOptions(probability=0.5)),
    "mirostat": pb.SamplingOptions(temperature=1, mirostat=pb.MirostatOptions(tau=4)),
}


@dataclass(frozen=True)
class Client:
    inference: inference_grpc.InferenceServiceStub
    models: model_grpc.ModelServiceStub
    metadata: tuple


@dataclass
class Choice:
    tokens: list = field(default_factory=list)
    text: str = ""
    logprobs: list = field(default_factory=list)
    finished: pb.Finished | None = None


class Reader:
    """Reads a stream in a thread, and checks its accounting as it goes."""

    def __init__(self, client, **fields):
        self._call = client.inference.StreamGenerate(
            request(**fields), metadata=client.metadata, timeout=120
        )
        self.choices = {}
        self.num_started = 0
        self.completed = None
        self.error = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    @property
    def num_tokens(self):
        return sum(len(choice.tokens) for choice in self.choices.values())

    def await_tokens(self, count):
        wait_until(
            lambda: self.error or self.num_tokens >= count, timeout_s=60, what=f"{count} tokens"
        )

    def end(self):
        """Waits for the end, which must be a good one."""
        self._thread.join(150)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        assert self.num_started == 1
        assert self.completed is not None
        assert self.completed.usage.output_tokens == self.num_tokens
        for choice in self.choices.values():
            assert choice.finished.output_tokens == len(choice.tokens)
        return self

    @property
    def output(self):
        return {index: (each.tokens, each.text) for index, each in self.choices.items()}

    def _read(self):
        try:
            for event in self._call:
                self._take(event)
        except (grpc.RpcError, AssertionError) as error:
            self.error = error

    def _take(self, event):
        assert self.completed is None
        match event.WhichOneof("event"):
            case "started":
                self.num_started += 1
            case "delta":
                choice = self.choices.setdefault(event.delta.choice_index, Choice())
                assert event.delta.token_offset == len(choice.tokens)
                assert choice.finished is None
                choice.tokens += event.delta.token_ids
                choice.text += event.delta.text
                choice.logprobs += event.delta.logprobs
            case "finished":
                self.choices[event.finished.choice_index].finished = event.finished
            case "completed":
                self.completed = event.completed


def request(**fields):
    defaults = {
        "model": "bundled",
        "text": "Once upon a time there was a caravan that",
        "max_output_tokens": 300,
        "ignore_eos": True,
        "seed": 11,
        "sampling": SAMPLING["greedy"],
    }
    return pb.GenerateRequest(**{**defaults, **fields})


def await_call(client):
    """Waits until new calls are taken: they are told to come back while no worker is there."""

    def works():
        try:
            client.inference.Generate(
                request(max_output_tokens=1), metadata=client.metadata, timeout=30
            )
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
        return True

    wait_until(works, timeout_s=60, what="a call")
