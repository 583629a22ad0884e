"""Runs a workload on a server: one thread per client, all of them within the workload's limit."""

import threading
import time
from dataclasses import dataclass, field

from runs import CallRecord, Run, summary
from sources import Call, CallFailedError, TokenSource
from workloads import Script, Workload, scripts

GRACE_S = 5.0


class WorkloadFailedError(Exception):
    """A run says nothing: it took too long, or calls failed that had to succeed."""


def run(source: TokenSource, workload: Workload, seed: int) -> Run:
    """Runs `workload` once.

    Raises:
        WorkloadFailedError: see there.
    """
    clients = [_Client(source, script) for script in scripts(workload, seed)]
    start = time.perf_counter()
    deadline = start + workload.limit_s
    threads = [
        threading.Thread(target=each.work, args=(start, deadline), daemon=True) for each in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline + GRACE_S - time.perf_counter()))
    wall_s = time.perf_counter() - start
    records = [record for each in clients for record in each.records]
    for each in clients:
        if each.fault is not None:
            raise each.fault
    result = summary(records, workload.num_calls, wall_s)
    _check(result, f"{workload.name}, {source.name}", workload)
    return result


def _check(result: Run, where: str, workload: Workload) -> None:
    done = f"{result.num_completed} of {result.num_calls} calls complete"
    if result.wall_s >= workload.limit_s:
        raise WorkloadFailedError(f"{where}: over the limit of {workload.limit_s:.0f} s, {done}")
    if result.num_completed < result.num_calls and not workload.may_fail:
        tokens = f"{result.least_tokens} to {result.most_tokens} tokens a call"
        raise WorkloadFailedError(f"{where}: {done}, {tokens}, failures: {result.failures}")


@dataclass(slots=True)
class _Client:
    source: TokenSource
    script: Script
    records: list[CallRecord] = field(default_factory=list)
    fault: BaseException | None = None

    def work(self, start: float, deadline: float) -> None:
        try:
            time.sleep(self.script.delay_s)
            self._converse(start, deadline)
        except Exception as error:  # noqa: BLE001 (handed to the thread that raises it)
            self.fault = error

    def _converse(self, start: float, deadline: float) -> None:
        conversation: list[int] = []
        for new_tokens, wanted in self.script.turns:
            conversation += new_tokens
            now = time.perf_counter()
            record = CallRecord(now - start, wanted, self.script.is_watched)
            self.records.append(record)
            call = Call(
                tuple(conversation), wanted, max(0.1, deadline - now), self.script.session_id
            )
            try:
                for tokens in self.source.stream(call):
                    record.arrivals.append(time.perf_counter() - start)
                    record.num_tokens += len(tokens)
                    conversation += tokens
            except CallFailedError as error:
                record.error = str(error)
                return
