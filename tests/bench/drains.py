"""How long streams stand still when their worker is drained without time to finish."""

import contextlib
import itertools
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.gateway.v1 import gateway_admin_service_pb2_grpc as gateway_grpc
from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan_testkit.stack import Stack
from clients import WorkloadFailedError
from report import Bound, Figure
from servers import MODEL_FILE, Caravan, Running, Shape, ensure_model, worker_addresses
from sources import Call
from workloads import FIRST_ORDINARY_TOKEN, VOCABULARY

ROUNDS = 3
NUM_STREAMS, CONTEXT = 4, 512
EMITTED_BEFORE, MOST_EMITTED = 16, 1000
AFTER = 16  # tokens of each stream after the drain
PATIENCE_S = 60

_SHAPE = Shape(seats=8, cells=8192)
_SHARED_CORES = {"CARAVAN_ENGINE__CONTEXT__THREADS": "0"}  # the default: divided by the workers
_TWO = {"CARAVAN_ENGINE__MODELS__REPLICAS": "2"}
_NOTHING_LEFT = {"CARAVAN_ENGINE__HANDOVER__TIME_S": "0"}
_RESTART, _ONE_OF_TWO, _COMPUTED = "restart", "one of two", "computed again"
_DEPLOYMENTS = (
    Caravan(name=_RESTART, shape=_SHAPE, settings=_SHARED_CORES),
    Caravan(name=_ONE_OF_TWO, shape=_SHAPE, settings={**_SHARED_CORES, **_TWO}),
    Caravan(name=_COMPUTED, shape=_SHAPE, settings={**_SHARED_CORES, **_NOTHING_LEFT}),
)


def drain_figures() -> Iterator[Figure]:
    """Drains workers of deployments in alternation; yields the longest gap of any stream."""
    ensure_model()
    gaps: dict[str, list[float]] = {}
    with contextlib.ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        running = [
            exits.enter_context(each.running(folder / str(number)))[0]
            for number, each in enumerate(_DEPLOYMENTS)
        ]
        for number in range(1, ROUNDS + 1):
            for server in running if number % 2 else running[::-1]:
                gap_s = _longest_gap_s(server)
                gaps.setdefault(server.source.name, []).append(gap_s)
                print(
                    f"drain, round {number}: {server.source.name}: {gap_s:.2f} s", file=sys.stderr
                )
    names = {
        _RESTART: "worker replaced by `drain --restart`",
        _ONE_OF_TWO: "one of two workers drained",
        _COMPUTED: "worker replaced, nothing handed over",
    }
    for key, name in names.items():
        aimed_at_s = None if key == _COMPUTED else 1.0
        what = f"longest gap of {NUM_STREAMS} streams, {CONTEXT} tokens, {name}"
        yield Figure(f"{what}, worst round", max(gaps[key]), "s", Bound.AT_MOST, aimed_at_s)
        yield Figure(f"{what}, median", statistics.median(gaps[key]), "s")


class _Reader:
    """Reads a stream in a thread of its own, and notes when something came."""

    def __init__(self, server: Running, generator: random.Random) -> None:
        prompt = [generator.randrange(FIRST_ORDINARY_TOKEN, VOCABULARY) for _ in range(CONTEXT)]
        self._tokens = server.source.stream(Call(prompt, MOST_EMITTED, timeout_s=4 * PATIENCE_S))
        self._arrivals: list[tuple[float, int]] = []
        self._failure: Exception | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for tokens in self._tokens:
                self._arrivals.append((time.perf_counter(), len(tokens)))
                if self._is_over:
                    break
        except Exception as error:  # noqa: BLE001 (told to whoever waits)
            self._failure = error

    def await_tokens(self, count: int, since: float = 0.0) -> None:
        """Returns when so many have come after a moment."""
        deadline = time.monotonic() + PATIENCE_S
        while sum(num for at, num in tuple(self._arrivals) if at >= since) < count:
            if self._failure is not None or time.monotonic() > deadline:
                raise WorkloadFailedError(f"a stream stands still: {self._failure}")
            time.sleep(0.01)

    def longest_gap_s(self, since: float) -> float:
        """The longest time between two arrivals of which the second came after a moment."""
        at = [each for each, _ in self._arrivals]
        return max(b - a for a, b in itertools.pairwise(at) if b >= since)

    def end(self) -> None:
        """Ends the stream with its next token."""
        self._is_over = True
        self._thread.join()


def _longest_gap_s(server: Running) -> float:
    if server.stack is None:
        raise TypeError("only Caravan's workers are drained")
    is_pair = server.source.name == _ONE_OF_TWO
    with _Operator(server.stack) as operator:
        operator.await_workers(2 if is_pair else 1)
        generator = random.Random(time.monotonic_ns())
        readers = [_Reader(server, generator) for _ in range(NUM_STREAMS)]
        try:
            for reader in readers:
                reader.await_tokens(EMITTED_BEFORE)
            ordered = time.perf_counter()
            operator.drain(restart=not is_pair, replica_index=0)
            drained = time.perf_counter()
            for reader in readers:
                reader.await_tokens(AFTER, drained)
            return max(reader.longest_gap_s(ordered) for reader in readers)
        finally:
            for reader in readers:
                reader.end()


class _Operator:
    """Orders what `caravan drain` and `caravan models load` do."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._metadata = (("authorization", f"Bearer {stack.admin_key}"),)
        self._channel = grpc.insecure_channel(stack.address)

    def __enter__(self) -> "_Operator":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def drain(self, *, restart: bool, replica_index: int) -> None:
        """Drains a worker that gets no time to finish."""
        request = gateway_pb.DrainWorkersRequest(
            model=MODEL_FILE.stem, replica_index=replica_index, restart=restart, timeout_ms=0
        )
        stub = gateway_grpc.GatewayAdminServiceStub(self._channel)
        stub.DrainWorkers(request, metadata=self._metadata, timeout=PATIENCE_S)

    def await_workers(self, count: int) -> None:
        """Returns when so many take calls, which are loaded again if need be."""
        request = model_pb.LoadModelRequest(model=MODEL_FILE.stem, replica_count=count)
        stub = model_grpc.ModelServiceStub(self._channel)
        for _ in stub.LoadModel(request, metadata=self._metadata, timeout=PATIENCE_S):
            pass
        deadline = time.monotonic() + PATIENCE_S
        while len(worker_addresses(self._stack)) != count:
            if time.monotonic() > deadline:
                raise WorkloadFailedError("workers that don't come back")
            time.sleep(0.2)
