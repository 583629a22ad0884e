"""The servers that a workload runs on: what each is started with, and starting them.

Caravan and llama-server get the same seats, cells, batch and threads. What else llama-server gets
is in README.md, with the reasons.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

import peer
from caravan.model.v1 import endpoint_service_pb2 as endpoint_pb
from caravan.model.v1 import endpoint_service_pb2_grpc as endpoint_grpc
from caravan_rpckit.tls import TlsIdentity
from caravan_testkit.stack import Stack, running_stack
from caravan_testkit.tiny_model import write_bench_gguf
from clients import WorkloadFailedError
from sources import GatewaySource, LlamaServerSource, TokenSource, WorkerSource

MODEL_FILE = peer.ROOT / "build" / "bench.gguf"
QUEUE_TIMEOUT_S = 600
START_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a server."""

    seats: int
    cells: int
    batch: int = 512
    threads: int = 2


@dataclass(slots=True)
class Running:
    """A server that runs: how to call it, and which processes are behind it."""

    source: TokenSource
    pids: list[int]
    stack: Stack | None = None  # Caravan's


@dataclass(frozen=True, slots=True, kw_only=True)
class Caravan:
    """All four services, called through the gateway.

    Args:
        settings: Beside those that follow from `shape`.
        also_direct: The name under which its worker is measured too, called without a gateway.
        is_resumable: Whether clients say that they may come back for the rest of a stream.
    """

    name: str
    shape: Shape
    settings: Mapping[str, str] = field(default_factory=dict)
    also_direct: str | None = None
    is_resumable: bool = False

    @contextlib.contextmanager
    def running(self, folder: Path) -> Iterator[list[Running]]:
        """Starts it; ends it afterwards."""
        with contextlib.ExitStack() as exits:
            stack = self._start(exits, folder)
            public = exits.enter_context(grpc.insecure_channel(stack.address))
            model = MODEL_FILE.stem
            services = ("gateway", "policy", "telemetry", "engine")
            pids = [stack.process(name).pid for name in services]
            gateway = GatewaySource(
                self.name, model, public, stack.admin_key, is_resumable=self.is_resumable
            )
            found = [Running(gateway, pids, stack)]
            if self.also_direct is not None:
                direct = exits.enter_context(worker_channel(stack))
                found.append(Running(WorkerSource(self.also_direct, model, direct), pids, stack))
            yield found

    def _start(self, exits: contextlib.ExitStack, folder: Path) -> Stack:
        settings = {
            "CARAVAN_ENGINE__CONTEXT__SEATS": str(self.shape.seats),
            "CARAVAN_ENGINE__CONTEXT__CELLS": str(self.shape.cells),
            "CARAVAN_ENGINE__CONTEXT__TOKEN_BUDGET": str(self.shape.batch),
            "CARAVAN_ENGINE__CONTEXT__THREADS": str(self.shape.threads),
            "CARAVAN_ENGINE__QUEUE__TIMEOUT_S": str(QUEUE_TIMEOUT_S),
            "CARAVAN_MODEL": str(MODEL_FILE),
            **self.settings,
        }
        try:
            return exits.enter_context(_stack_on_free_ports(folder, settings))
        except (RuntimeError, TimeoutError) as error:
            wanted = ", ".join(f"{k}={v}" for k, v in self.settings.items()) or "none"
            message = f"{self.name} doesn't start (settings of its own: {wanted}): {error}"
            raise WorkloadFailedError(message) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaServer:
    """llama-server of the same llama.cpp.

    Args:
        is_unified: One memory for all slots, as Caravan has it, or one for each.
        caches_prompts: Whether it may reuse earlier calls, in slots and in host memory, its
            default; off where no two prompts have anything in common.
        extra_flags: Last of all, so they win.
    """

    name: str
    shape: Shape
    is_unified: bool = False
    caches_prompts: bool = True
    extra_flags: Sequence[str] = ()

    @property
    def flags(self) -> list[str]:
        """Its command line, without model and address."""
        shape = self.shape
        flags = [
            *("-np", str(shape.seats), "-c", str(shape.cells)),
            *("-b", str(shape.batch), "-ub", str(shape.batch)),
            *("-t", str(shape.threads), "-tb", str(shape.threads)),
            *("-fa", "on", "--no-webui"),
            "--kv-unified" if self.is_unified else "--no-kv-unified",
        ]
        if not self.caches_prompts:
            flags += ["--cache-ram", "0"]
        return [*flags, *self.extra_flags]

    @contextlib.contextmanager
    def running(self, folder: Path) -> Iterator[list[Running]]:
        """Starts it; ends it afterwards."""
        folder.mkdir(parents=True)
        started = peer.running(MODEL_FILE, self.flags, folder / "llama-server.log")
        with contextlib.ExitStack() as exits:
            try:
                port, pid = exits.enter_context(started)
            except (RuntimeError, TimeoutError) as error:
                raise WorkloadFailedError(f"{self.name} doesn't start: {error}") from error
            source = LlamaServerSource(self.name, port, caches_prompts=self.caches_prompts)
            yield [Running(source, [pid])]


Server = Caravan | LlamaServer


@contextlib.contextmanager
def running_servers(servers: Sequence[Server], folder: Path) -> Iterator[list[Running]]:
    """Starts servers one after the other; ends all of them."""
    ensure_model()
    with contextlib.ExitStack() as exits:
        found: list[Running] = []
        for number, server in enumerate(servers):
            found += exits.enter_context(server.running(folder / str(number)))
        yield found


def ensure_model() -> Path:
    """Writes the model if it isn't there, and returns its path."""
    if not MODEL_FILE.exists():
        MODEL_FILE.parent.mkdir(parents=True, exist_ok=True)
        write_bench_gguf(MODEL_FILE)
    return MODEL_FILE


@contextlib.contextmanager
def _stack_on_free_ports(folder: Path, settings: Mapping[str, str]) -> Iterator[Stack]:
    """Tries again when another program took a port between its choice and its use."""
    with contextlib.ExitStack() as exits:
        for attempt in range(START_ATTEMPTS):
            try:
                stack = exits.enter_context(running_stack(folder / str(attempt), settings))
            except RuntimeError as error:
                if "ADDRESS_IN_USE" not in str(error) or attempt == START_ATTEMPTS - 1:
                    raise
            else:
                break
        yield stack


def worker_addresses(stack: Stack) -> list[str]:
    """The workers of the bench model that take calls now."""
    credentials = TlsIdentity.in_home(stack.home, "gateway").channel_credentials()
    with grpc.secure_channel(stack.grpc_address("engine"), credentials) as host:
        stub = endpoint_grpc.EndpointServiceStub(host)
        picture = next(iter(stub.WatchEndpoints(endpoint_pb.WatchEndpointsRequest())))
    return [each.address for each in picture.endpoints if each.model == MODEL_FILE.stem]


@contextlib.contextmanager
def worker_channel(stack: Stack) -> Iterator[grpc.Channel]:
    """A channel to the bench model's worker, with the gateway's certificate."""
    credentials = TlsIdentity.in_home(stack.home, "gateway").channel_credentials()
    [address] = worker_addresses(stack)
    with grpc.secure_channel(address, credentials) as channel:
        yield channel
