"""Sums the numbers of all workers on all hosts.

A worker's counters start at 0 with its process, but sums must never fall. So what a worker that
is gone had counted stays in the sum of its model; gauges come from live workers only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from caravan_obskit.worker_numbers import (
    ModelNumbers,
    SystemNumbers,
    WorkerCounters,
    WorkerGauges,
    WorkerNumbers,
)
from caravan_telemetry.domain.errors import HostTakenOverError
from caravan_telemetry.domain.event_rate import EventRate
from caravan_telemetry.domain.label_cap import LabelCap

_Key = tuple[str, str]  # host id, worker id


@dataclass(frozen=True, slots=True, eq=False)
class HostSession:
    """One stream of one host; compared by identity."""

    host_id: str


@dataclass(slots=True)
class _Host:
    session: HostSession
    last_report_s: float
    workers: dict[str, WorkerNumbers] = field(default_factory=dict)


class WorkerTotals:
    """Follows the workers of every host by what their streams say.

    Belongs to the event loop. A host that says nothing for longer than `silence_limit_s` counts
    as away until it speaks again. Of workers that are gone the last `remembered_limit` are known
    by id, so that they may come back without counting twice; older ones melt into their model.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        silence_limit_s: float,
        remembered_limit: int,
        model_limit: int,
    ) -> None:
        self._clock = clock
        self._silence_limit_s = silence_limit_s
        self._remembered_limit = remembered_limit
        self._models = LabelCap(model_limit)
        self._hosts: dict[str, _Host] = {}
        self._gone: dict[_Key, WorkerNumbers] = {}  # in the order of leaving
        self._melted: dict[str, WorkerCounters] = {}
        self._rate = EventRate()

    @property
    def live_host_count(self) -> int:
        """Hosts that have spoken lately."""
        return sum(1 for _ in self._live_hosts())

    def join(self, host_id: str) -> HostSession:
        """Starts a stream of a host; an older one of the same host has no say any more."""
        session = HostSession(host_id)
        host = self._hosts.get(host_id)
        if host is None:
            self._hosts[host_id] = _Host(session, self._clock())
        else:
            host.session = session
        return session

    def report(self, session: HostSession, workers: Iterable[WorkerNumbers]) -> None:
        """Takes the numbers of all live workers of a host; who is missing is gone.

        Raises:
            HostTakenOverError: a newer stream speaks for this host.
        """
        host = self._hosts.get(session.host_id)
        if host is None or host.session is not session:
            raise HostTakenOverError
        host.last_report_s = self._clock()
        before, host.workers = host.workers, {}
        for worker in workers:
            self._update(host, before, worker)
        for worker in before.values():
            self._retire(session.host_id, worker)

    def leave(self, session: HostSession) -> None:
        """Ends a stream. Its workers are gone, unless a newer stream speaks for the host."""
        host = self._hosts.get(session.host_id)
        if host is None or host.session is not session:
            return
        del self._hosts[session.host_id]
        for worker in host.workers.values():
            self._retire(session.host_id, worker)

    def system(self) -> SystemNumbers:
        """Returns the sums of this moment."""
        live = list(self._live_hosts())
        gauges = _gauges_by_model(worker for host in live for worker in host.workers.values())
        return SystemNumbers(
            models={
                model: ModelNumbers(counters, gauges.get(model))
                for model, counters in sorted(self._counters_by_model().items())
            },
            device_bytes=_device_bytes([list(host.workers.values()) for host in live]),
            requests_per_second=self._rate.per_second(self._clock()),
        )

    def _live_hosts(self) -> Iterator[_Host]:
        oldest = self._clock() - self._silence_limit_s
        return (host for host in self._hosts.values() if host.last_report_s >= oldest)

    def _update(self, host: _Host, before: dict[str, WorkerNumbers], worker: WorkerNumbers) -> None:
        key = (host.session.host_id, worker.worker_id)
        worker = _named(worker, self._models.label(worker.model))
        known = before.pop(worker.worker_id, None) or self._gone.pop(key, None)
        if known is not None:
            if _continues(known, worker):
                self._count_finished(known, worker)
            else:
                self._melt(known)
        host.workers[worker.worker_id] = worker

    def _count_finished(self, before: WorkerNumbers, now: WorkerNumbers) -> None:
        count = now.counters.finished_requests - before.counters.finished_requests
        self._rate.add(count, self._clock())

    def _retire(self, host_id: str, worker: WorkerNumbers) -> None:
        self._gone[(host_id, worker.worker_id)] = worker
        while len(self._gone) > self._remembered_limit:
            self._melt(self._gone.pop(next(iter(self._gone))))

    def _melt(self, worker: WorkerNumbers) -> None:
        sum_so_far = self._melted.get(worker.model, WorkerCounters())
        self._melted[worker.model] = sum_so_far + worker.counters

    def _counters_by_model(self) -> dict[str, WorkerCounters]:
        sums = dict(self._melted)
        for worker in self._all_workers():
            sums[worker.model] = sums.get(worker.model, WorkerCounters()) + worker.counters
        return sums

    def _all_workers(self) -> Iterator[WorkerNumbers]:
        yield from self._gone.values()
        for host in self._hosts.values():
            yield from host.workers.values()


def _named(worker: WorkerNumbers, model: str) -> WorkerNumbers:
    if worker.model == model:
        return worker
    return WorkerNumbers(
        worker_id=worker.worker_id,
        model=model,
        replica_index=worker.replica_index,
        counters=worker.counters,
        gauges=worker.gauges,
        device_bytes=worker.device_bytes,
    )


def _continues(before: WorkerNumbers, now: WorkerNumbers) -> bool:
    """Whether `now` can be the same process later; ids should be unique, but sums must not fall."""
    old, new = before.counters, now.counters
    return (
        before.model == now.model
        and new.input_tokens >= old.input_tokens
        and new.output_tokens >= old.output_tokens
        and new.prefix_query_tokens >= old.prefix_query_tokens
        and new.prefix_hit_tokens >= old.prefix_hit_tokens
        and new.steps >= old.steps
        and new.finished_requests >= old.finished_requests
    )


def _gauges_by_model(workers: Iterable[WorkerNumbers]) -> dict[str, WorkerGauges]:
    sums: dict[str, WorkerGauges] = {}
    for worker in workers:
        sums[worker.model] = sums.get(worker.model, WorkerGauges()) + worker.gauges
    return sums


def _device_bytes(hosts: Sequence[Sequence[WorkerNumbers]]) -> Mapping[str, int]:
    """Sums over hosts; on one host a device that several workers share counts once."""
    sums: dict[str, int] = {}
    for workers in hosts:
        used: dict[str, int] = {}
        for worker in workers:
            for device, size in worker.device_bytes.items():
                used[device] = max(size, used.get(device, 0))
        for device, size in used.items():
            sums[device] = sums.get(device, 0) + size
    return sums
