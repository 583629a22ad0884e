"""The numbers of workers, asked of all engine hosts and put together."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio

from caravan.engine.v1 import host_service_pb2 as host_pb
from caravan.engine.v1 import host_service_pb2_grpc as host_grpc
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.model.v1 import model_pb2 as model_pb

_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class StatsSource:
    """A host, and its models as it listed them last; those decide how replicas are numbered."""

    address: str
    channel: grpc.aio.Channel
    models: Sequence[model_pb.Model]


async def stats_of_all(sources: Sequence[StatsSource]) -> gateway_pb.GetWorkerStatsResponse:
    """Asks every host at once; one that doesn't answer in time is named, the others count."""
    answers = await asyncio.gather(*(_ask(source.channel) for source in sources))
    response = gateway_pb.GetWorkerStatsResponse()
    heard = []
    for source, workers in zip(sources, answers, strict=True):
        if workers is None:
            response.missing_hosts.append(source.address)
        heard.append((source.models, workers or ()))
    response.workers.extend(numbered(heard))
    return response


def numbered(
    hosts: Sequence[tuple[Sequence[model_pb.Model], Sequence[stats_pb.WorkerStats]]],
) -> list[stats_pb.WorkerStats]:
    """Returns all workers by model and replica.

    Each host counts a model's replicas from 0. They are numbered anew, as they are in the merged
    list of models: those of the first host, then those of the next.
    """
    taken: dict[str, int] = {}
    found = []
    for models, workers in hosts:
        numbers = {}
        for model in models:
            for replica in model.replicas:
                numbers[model.name, replica.index] = taken.get(model.name, 0)
                taken[model.name] = taken.get(model.name, 0) + 1
        for worker in workers:
            number = numbers.get((worker.model, worker.replica_index))
            if number is not None:  # else it came or went since the host listed its models
                worker.replica_index = number
                found.append(worker)
    return sorted(found, key=lambda worker: (worker.model, worker.replica_index))


async def _ask(channel: grpc.aio.Channel) -> Sequence[stats_pb.WorkerStats] | None:
    try:
        answer = await host_grpc.HostServiceStub(channel).GetWorkerStats(
            host_pb.GetWorkerStatsRequest(), timeout=_TIMEOUT_S
        )
    except grpc.aio.AioRpcError:
        return None
    return list(answer.workers)
