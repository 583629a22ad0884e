"""What the gateway costs beside a call of the worker, and what the small services weigh."""

import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial

import machine
from caravan_testkit.stack import Stack
from report import Bound, Figure, Measured, ratios
from servers import Running
from sources import Call, GatewaySource, TokenSource

_CALL = Call([400], 1)
_MIB, _MEGABYTE = 2**20, 10**6


def gateway_costs(
    servers: Sequence[Running], measured: Sequence[Measured], *, is_quick: bool
) -> Iterator[Figure]:
    """Yields the figures; `servers` and `measured` begin with the gateway and the worker."""
    gateway, worker = (each.source for each in servers[:2])
    stack = servers[0].stack
    if not isinstance(gateway, GatewaySource) or stack is None:
        raise TypeError("the first server isn't Caravan")
    yield _idle_memory(stack)
    yield from _unary_cost(gateway, worker, 40 if is_quick else 200)
    lost = (1 - statistics.median(ratios(measured[0], measured[1], "tokens_per_s"))) * 100
    yield Figure("gateway's cost in streamed throughput, 8 clients", lost, "%", Bound.AT_MOST, 5)


def _unary_cost(gateway: GatewaySource, worker: TokenSource, count: int) -> Iterator[Figure]:
    """What the gateway adds to a call of one token, as medians of differences in alternation.

    The answer to a unary call is one message from the gateway, and a stream of events from the
    worker, which has no other method; so the same call is also measured as a stream of both.
    """
    ways = {
        "unary": partial(gateway.generate, _CALL),
        "streamed": partial(_stream, gateway),
        "direct": partial(_stream, worker),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(count):
        for name in list(ways)[:: -1 if index % 2 else 1]:
            started = time.perf_counter()
            ways[name]()
            spent[name].append((time.perf_counter() - started) * 1000)
    for way in ("unary", "streamed"):
        added = statistics.median(a - b for a, b in zip(spent[way], spent["direct"], strict=True))
        name = f"gateway added to a {way} call of one token, p50"
        yield Figure(name, added, "ms", Bound.AT_MOST, 3)


def _idle_memory(stack: Stack) -> Figure:
    """Memory of the three services beside the engine."""
    names = ("gateway", "policy", "telemetry")
    total = sum(machine.pss_bytes(stack.process(name).pid) for name in names)
    aim = 300 * _MEGABYTE / _MIB
    return Figure("gateway + policy + telemetry, PSS", total / _MIB, "MiB", Bound.AT_MOST, aim)


def _stream(source: TokenSource) -> None:
    for _ in source.stream(_CALL):
        pass
