"""Caravan beside llama-server of the same llama.cpp, in alternation, on a random model.

Usage: bench.py [--quick] [--rounds N] [--json PATH]
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import grpc
import machine
import peer
from report import Figure, Measured, ratios, table, write_json
from streams import GatewaySource, LlamaServerSource, TokenSource, WorkerSource
from workloads import DISTINCT, ONE_CLIENT, Workload, run

from caravan.model.v1 import endpoint_service_pb2 as endpoint_pb
from caravan.model.v1 import endpoint_service_pb2_grpc as endpoint_grpc
from caravan_rpckit.tls import TlsIdentity
from caravan_testkit.stack import Stack, running_stack
from caravan_testkit.tiny_model import write_bench_gguf

VOCABULARY = 32_000
SEATS, CELLS, BATCH, THREADS = 8, 4096, 512, 2
GATEWAY, WORKER = "caravan", "caravan worker, direct"
UNIFIED, DEFAULT = "llama-server --kv-unified", "llama-server"
MODEL_FILE = peer.ROOT / "build" / "bench.gguf"
PEER_FLAGS = [
    *("-np", str(SEATS), "-c", str(CELLS), "-b", str(BATCH), "-ub", str(BATCH)),
    *("-t", str(THREADS), "-tb", str(THREADS), "-fa", "on", "--no-webui", "--cache-ram", "0"),
]
ENGINE_SETTINGS = {
    "CARAVAN_ENGINE__CONTEXT__SEATS": str(SEATS),
    "CARAVAN_ENGINE__CONTEXT__CELLS": str(CELLS),
    "CARAVAN_ENGINE__CONTEXT__TOKEN_BUDGET": str(BATCH),
    "CARAVAN_ENGINE__CONTEXT__THREADS": str(THREADS),
}


def main(arguments: list[str]) -> int:
    """Measures, prints the table, writes the JSON."""
    options = parse(arguments)
    rounds = 1 if options.quick else options.rounds
    if not MODEL_FILE.exists():
        MODEL_FILE.parent.mkdir(parents=True, exist_ok=True)
        write_bench_gguf(MODEL_FILE)
    with contextlib.ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        sources, pids, stack = start(exits, folder)
        workloads = [ONE_CLIENT, DISTINCT]
        measured = measure(sources, pids, workloads, rounds)
        figures = [idle_memory(stack), *unary_cost(sources, 40 if options.quick else 200)]
    figures.append(streaming_cost(measured))
    description = machine.describe()
    print(table(description, measured, figures, UNIFIED))
    write_json(options.json, description, measured, figures)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, to see that it works")
    parser.add_argument("--rounds", type=int, default=4, help="rounds, at least 3")
    parser.add_argument("--json", type=Path, default=peer.ROOT / "build" / "bench.json")
    options = parser.parse_args(arguments)
    if options.rounds < 3:
        parser.error("--rounds: fewer than 3 say nothing; --quick runs one, to see that it works")
    return options


def start(
    exits: contextlib.ExitStack, folder: Path
) -> tuple[list[TokenSource], Mapping[str, list[int]], Stack]:
    """Starts all servers; returns the sources, and the processes behind each."""
    settings = {**ENGINE_SETTINGS, "CARAVAN_MODEL": str(MODEL_FILE)}
    stack = exits.enter_context(running_stack(folder / "home", settings))
    unified = exits.enter_context(
        peer.running(MODEL_FILE, [*PEER_FLAGS, "--kv-unified"], folder / "unified.log")
    )
    default = exits.enter_context(
        peer.running(MODEL_FILE, [*PEER_FLAGS, "--no-kv-unified"], folder / "default.log")
    )
    public = exits.enter_context(grpc.insecure_channel(stack.address))
    direct = exits.enter_context(worker_channel(stack))
    model = MODEL_FILE.stem
    sources: list[TokenSource] = [
        GatewaySource(GATEWAY, model, public, stack.admin_key),
        WorkerSource(WORKER, model, direct),
        LlamaServerSource(UNIFIED, unified[0]),
        LlamaServerSource(DEFAULT, default[0]),
    ]
    ours = [stack.process(name).pid for name in ("gateway", "policy", "telemetry", "engine")]
    pids = {GATEWAY: ours, WORKER: ours, UNIFIED: [unified[1]], DEFAULT: [default[1]]}
    return sources, pids, stack


def measure(
    sources: list[TokenSource],
    pids: Mapping[str, list[int]],
    workloads: list[Workload],
    rounds: int,
) -> list[Measured]:
    """Runs all workloads on all servers, in one order and then in the other."""
    results = {(w.name, s.name): Measured(w.name, s.name) for w in workloads for s in sources}
    for source in sources:
        run(source, ONE_CLIENT, VOCABULARY, seed=0)  # warm-up
    for number in range(rounds):
        ordered = sources if number % 2 == 0 else sources[::-1]
        for workload in workloads:
            for source in ordered:
                result = results[workload.name, source.name]
                with machine.other_load(pids[source.name]) as load:
                    result.runs.append(run(source, workload, VOCABULARY, seed=number + 1))
                if load.is_noisy:
                    result.noisy_rounds.append(number + 1)
                print(f"round {number + 1}: {workload.name}, {source.name}", file=sys.stderr)
    return list(results.values())


def unary_cost(sources: list[TokenSource], count: int) -> Iterator[Figure]:
    """What the gateway adds to a call of one token, as medians of differences in alternation.

    The answer to a unary call is one message from the gateway, and a stream of events from the
    worker, which has no other method; so the same call is also measured as a stream of both.
    """
    gateway, worker = sources[:2]
    ways = {
        GATEWAY: partial(gateway.generate, [FIRST_TOKEN], 1),
        "stream": partial(_one_token, gateway),
        WORKER: partial(_one_token, worker),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(count):
        for name in list(ways)[:: -1 if index % 2 else 1]:
            started = time.perf_counter()
            ways[name]()
            spent[name].append((time.perf_counter() - started) * 1000)
    for name, way in ((GATEWAY, "unary"), ("stream", "streamed")):
        added = statistics.median(a - b for a, b in zip(spent[name], spent[WORKER], strict=True))
        yield Figure(f"gateway added to a {way} call of one token, p50", added, "ms", "<= 3 ms")


def streaming_cost(measured: list[Measured]) -> Figure:
    """What the gateway takes of the throughput of eight streams."""
    by_source = {m.source: m for m in measured if m.workload == DISTINCT.name}
    ratio = statistics.median(ratios(by_source[GATEWAY], by_source[WORKER], "tokens_per_s"))
    lost = (1 - ratio) * 100
    return Figure("gateway's cost in streamed throughput, 8 clients", lost, "%", "<= 5 %")


def idle_memory(stack: Stack) -> Figure:
    """Memory of the three services beside the engine."""
    total = sum(
        machine.pss_bytes(stack.process(name).pid) for name in ("gateway", "policy", "telemetry")
    )
    return Figure("gateway + policy + telemetry, PSS", total / 2**20, "MiB", "<= 300 MB")


@contextlib.contextmanager
def worker_channel(stack: Stack) -> Iterator[grpc.Channel]:
    """A channel to the bench model's worker, with the gateway's certificate."""
    credentials = TlsIdentity.in_home(stack.home, "gateway").channel_credentials()
    with grpc.secure_channel(stack.grpc_address("engine"), credentials) as host:
        stub = endpoint_grpc.EndpointServiceStub(host)
        picture = next(iter(stub.WatchEndpoints(endpoint_pb.WatchEndpointsRequest())))
    [address] = [e.address for e in picture.endpoints if e.model == MODEL_FILE.stem]
    with grpc.secure_channel(address, credentials) as channel:
        yield channel


def _one_token(source: TokenSource) -> None:
    for _ in source.stream([FIRST_TOKEN], 1):
        pass


FIRST_TOKEN = 400

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
