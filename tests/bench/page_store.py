"""What a worker says of its store of pages after it was filled: memory beside what it keeps."""

import sys
from collections.abc import Iterator, Sequence

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_service_pb2_grpc as worker_grpc
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_testkit.tiny_model import BENCH
from report import Bound, Figure, Measured
from servers import Running, worker_channel

HOST_BYTES, HOST_TOKENS = "host_page_bytes", "host_page_token_count"  # fields of WorkerStats
RAW_BYTES_PER_TOKEN = BENCH.num_layers * 2 * BENCH.kv_width * 2  # keys and values, two bytes each


def page_store_figures(
    servers: Sequence[Running], measured: Sequence[Measured], *, is_quick: bool
) -> Iterator[Figure]:
    """Yields figures of the first server's worker, as far as it reports them."""
    stack = servers[0].stack
    if stack is None:
        raise TypeError("the first server isn't Caravan")
    with worker_channel(stack) as channel:
        watch = worker_grpc.WorkerServiceStub(channel).WatchStats
        stats = next(iter(watch(worker_pb.WatchStatsRequest(), timeout=10))).stats
    yield from host_memory(stats)


def host_memory(stats: stats_pb.WorkerStats) -> Iterator[Figure]:
    """Yields bytes of host memory a spilled token, beside those of its keys and values."""
    fields = stats.DESCRIPTOR.fields_by_name
    if HOST_BYTES not in fields or HOST_TOKENS not in fields:
        print(f"workers don't report {HOST_BYTES} and {HOST_TOKENS}", file=sys.stderr)
        return
    num_tokens = getattr(stats, HOST_TOKENS)
    if num_tokens == 0:
        print("the worker keeps no pages in host memory", file=sys.stderr)
        return
    ratio = getattr(stats, HOST_BYTES) / num_tokens / RAW_BYTES_PER_TOKEN
    yield Figure("host memory of a spilled token / raw KV", ratio, "x", Bound.AT_MOST, 1.02)
