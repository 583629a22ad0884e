"""Alternation: each round runs the workload once on every server, in one order or the other."""

import sys
from collections.abc import Sequence

import machine
from clients import run
from report import Measured
from servers import Running
from workloads import WARM_UP, Workload


def alternate(
    servers: Sequence[Running],
    workload: Workload,
    *,
    rounds: int,
    name: str,
    preparation: Workload | None = None,
) -> list[Measured]:
    """Measures `workload` on all servers.

    Args:
        servers: That run, in the order of the result.
        workload: What they do.
        rounds: How often.
        name: Of the measurement in the report.
        preparation: Done once by each server before the first round.

    Raises:
        WorkloadFailedError: see `clients.run`.
    """
    results = [Measured(name, each.source.name) for each in servers]
    for each in servers:
        run(each.source, WARM_UP, seed=0)
        if preparation is not None:
            run(each.source, preparation, seed=-1)
    # Of two ways to the same processes neither may find in memory what the other has sent.
    offsets = [1000 * _num_sharing(each, servers[:at]) for at, each in enumerate(servers)]
    pairs = list(zip(servers, results, offsets, strict=True))
    for number in range(1, rounds + 1):
        for server, result, offset in pairs if number % 2 else pairs[::-1]:
            with machine.other_load(server.pids) as load:
                result.runs.append(run(server.source, workload, seed=number + offset))
            if load.is_noisy:
                result.noisy_rounds.append(number)
            last = result.runs[-1]
            done = f"{last.num_completed} of {last.num_calls} in {last.wall_s:.1f} s"
            print(f"{name}, round {number}: {server.source.name}: {done}", file=sys.stderr)
    return results


def _num_sharing(server: Running, others: Sequence[Running]) -> int:
    return sum(other.pids == server.pids for other in others)
