"""One token stream of each kind of server, as the arrival of tokens."""

import http.client
import json
from collections.abc import Iterator, Sequence
from typing import Protocol

import grpc

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_service_pb2_grpc as worker_grpc
from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc

TIMEOUT_S = 600


class TokenSource(Protocol):
    """Generates greedily, past the end of text. Thread-safe."""

    name: str

    def stream(self, prompt: Sequence[int], output_tokens: int) -> Iterator[int]:
        """Yields how many tokens arrived, each time some do."""


class LlamaServerSource:
    """llama-server's own streaming endpoint, without prompt caching."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self._port = port

    def stream(self, prompt: Sequence[int], output_tokens: int) -> Iterator[int]:
        body = {
            "prompt": list(prompt),
            "n_predict": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "cache_prompt": False,
            "return_tokens": True,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/completion", json.dumps(body), headers)
            yield from _arrivals(connection.getresponse())
        finally:
            connection.close()


class GatewaySource:
    """Caravan as its clients see it."""

    def __init__(self, name: str, model: str, channel: grpc.Channel, key: str) -> None:
        self.name = name
        self._model = model
        self._stub = inference_grpc.InferenceServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {key}"),)

    def stream(self, prompt: Sequence[int], output_tokens: int) -> Iterator[int]:
        request = _request(self._model, prompt, output_tokens)
        events = self._stub.StreamGenerate(request, metadata=self._metadata, timeout=TIMEOUT_S)
        for event in events:
            if event.HasField("delta"):
                yield len(event.delta.token_ids)

    def generate(self, prompt: Sequence[int], output_tokens: int) -> None:
        """The same as one answer."""
        request = _request(self._model, prompt, output_tokens)
        self._stub.Generate(request, metadata=self._metadata, timeout=TIMEOUT_S)


class WorkerSource:
    """A Caravan worker, called as a gateway calls it."""

    def __init__(self, name: str, model: str, channel: grpc.Channel) -> None:
        self.name = name
        self._model = model
        self._stub = worker_grpc.WorkerServiceStub(channel)

    def stream(self, prompt: Sequence[int], output_tokens: int) -> Iterator[int]:
        request = worker_pb.RunRequest(
            request=_request(self._model, prompt, output_tokens),
            caller=worker_pb.Caller(
                tenant="default", principal="bench", priority=10, request_id="bench"
            ),
        )
        for response in self._stub.Run(request, timeout=TIMEOUT_S):
            if response.event.HasField("delta"):
                yield len(response.event.delta.token_ids)


def _request(model: str, prompt: Sequence[int], output_tokens: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        model=model,
        token_ids=pb.TokenIds(ids=prompt),
        max_output_tokens=output_tokens,
        ignore_eos=True,
        seed=1,
        priority=10,
        sampling=pb.SamplingOptions(temperature=0),
    )


def _arrivals(response: http.client.HTTPResponse) -> Iterator[int]:
    if response.status != 200:
        raise RuntimeError(f"llama-server answered {response.status}: {response.read()[:300]!r}")
    for line in response:
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            if not event.get("stop"):
                yield max(1, len(event.get("tokens", ())))
