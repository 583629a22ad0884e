"""One token stream of each kind of server, as the arrival of tokens."""

import http.client
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_service_pb2_grpc as worker_grpc
from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc

RESUMABLE_KEY = "x-caravan-resumable"

HAS_SESSIONS = "session_id" in pb.GenerateRequest.DESCRIPTOR.fields_by_name


class CallFailedError(Exception):
    """The server ended a call with an error; the text says which, without the call's number."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a client wants: to continue a prompt greedily, past the end of text."""

    prompt: Sequence[int]
    output_tokens: int
    timeout_s: float = 60.0
    session_id: str | None = None  # names the conversation for servers that keep it warm by name


class TokenSource(Protocol):
    """A server as its clients see it. Thread-safe."""

    name: str

    def stream(self, call: Call) -> Iterator[Sequence[int]]:
        """Yields the tokens that arrived, each time some do.

        Raises:
            CallFailedError: the server says so, or the time is over.
        """


class LlamaServerSource:
    """llama-server's own streaming endpoint.

    Args:
        name: In the report.
        port: On loopback.
        caches_prompts: Whether it may reuse what it computed for earlier calls, its default.
    """

    def __init__(self, name: str, port: int, *, caches_prompts: bool) -> None:
        self.name = name
        self._port = port
        self._caches_prompts = caches_prompts

    def stream(self, call: Call) -> Iterator[Sequence[int]]:
        body = {
            "prompt": list(call.prompt),
            "n_predict": call.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "cache_prompt": self._caches_prompts,
            "return_tokens": True,
        }
        deadline = time.monotonic() + call.timeout_s
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=call.timeout_s)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/completion", json.dumps(body), headers)
            yield from llama_server_tokens(connection.getresponse(), deadline)
        except (OSError, http.client.HTTPException) as error:
            raise CallFailedError(f"connection: {type(error).__name__}") from error
        finally:
            connection.close()


def llama_server_tokens(
    response: http.client.HTTPResponse, deadline: float
) -> Iterator[Sequence[int]]:
    """Reads llama-server's answer; `deadline` is in `time.monotonic()`."""
    if response.status != 200:
        raise CallFailedError(_error_text(response.read()) or f"status {response.status}")
    for line in response:
        kind, _, data = line.partition(b": ")
        if kind == b"error":
            raise CallFailedError(_error_text(data))
        if kind != b"data":
            continue
        event = json.loads(data)
        if "error" in event:
            raise CallFailedError(_error_text(data))
        if not event.get("stop"):
            yield event["tokens"]
        if time.monotonic() > deadline:
            raise CallFailedError("the time is over")


def _error_text(body: bytes) -> str:
    try:
        answer = json.loads(body)
    except ValueError:
        return body[:200].decode(errors="replace")
    error = answer.get("error", answer)
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


class GatewaySource:
    """Caravan as its clients see it.

    Args:
        name: In the report.
        model: What is asked.
        channel: To the gateway.
        key: An API key.
        is_resumable: Whether streams are asked for as the SDKs do, so that they can be resumed.
    """

    def __init__(
        self, name: str, model: str, channel: grpc.Channel, key: str, *, is_resumable: bool = False
    ) -> None:
        self.name = name
        self._model = model
        self._stub = inference_grpc.InferenceServiceStub(channel)
        self._metadata = [("authorization", f"Bearer {key}")]
        if is_resumable:
            self._metadata.append((RESUMABLE_KEY, "1"))

    def stream(self, call: Call) -> Iterator[Sequence[int]]:
        request = _request(self._model, call)
        try:
            for event in self._stub.StreamGenerate(
                request, metadata=self._metadata, timeout=call.timeout_s
            ):
                if event.HasField("delta"):
                    yield event.delta.token_ids
        except grpc.RpcError as error:
            raise _failure(error) from error

    def generate(self, call: Call) -> None:
        """The same as one answer."""
        request = _request(self._model, call)
        self._stub.Generate(request, metadata=self._metadata, timeout=call.timeout_s)


class WorkerSource:
    """A Caravan worker, called as a gateway calls it."""

    def __init__(self, name: str, model: str, channel: grpc.Channel) -> None:
        self.name = name
        self._model = model
        self._stub = worker_grpc.WorkerServiceStub(channel)

    def stream(self, call: Call) -> Iterator[Sequence[int]]:
        request = worker_pb.RunRequest(
            request=_request(self._model, call),
            caller=worker_pb.Caller(
                tenant="default", principal="bench", priority=10, request_id="bench"
            ),
        )
        try:
            for response in self._stub.Run(request, timeout=call.timeout_s):
                if response.event.HasField("delta"):
                    yield response.event.delta.token_ids
        except grpc.RpcError as error:
            raise _failure(error) from error


def _request(model: str, call: Call) -> pb.GenerateRequest:
    request = pb.GenerateRequest(
        model=model,
        token_ids=pb.TokenIds(ids=call.prompt),
        max_output_tokens=call.output_tokens,
        ignore_eos=True,
        seed=1,
        priority=10,
        sampling=pb.SamplingOptions(temperature=0),
    )
    if HAS_SESSIONS and call.session_id is not None:
        request.session_id = call.session_id
    return request


def _failure(error: grpc.RpcError) -> CallFailedError:
    return CallFailedError(f"{error.code().name}: {error.details()}")
