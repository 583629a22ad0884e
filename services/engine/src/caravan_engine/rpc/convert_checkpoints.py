"""What is on disk for the time after a worker's death: from the engine's domain to protos."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice

from google.protobuf.message import DecodeError

from caravan.engine.v1 import checkpoints_pb2 as pb
from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan_engine.domain.kv_numbers import DiskStats
from caravan_engine.domain.recovery.live_requests import LiveRequest
from caravan_engine.domain.recovery.records import Handle
from caravan_engine.runtime.request_journal import JournalStats

MAX_LISTED_REQUESTS = 1000


@dataclass(frozen=True, slots=True)
class Journaled:
    """What is in a journal. `recoverable` are those of an earlier worker."""

    stats: JournalStats
    requests: Sequence[LiveRequest]
    recoverable: Collection[Handle]


def to_checkpoints(
    model: str, replica_index: int, journaled: Journaled | None, disk: DiskStats | None
) -> pb.WorkerCheckpoints:
    """Converts what a worker has on disk; None where it has no journal or no pages there."""
    checkpoints = pb.WorkerCheckpoints(
        model=model, replica_index=replica_index, journal_state=pb.JOURNAL_STATE_OFF
    )
    if disk is not None:
        checkpoints.page_count = disk.num_pages
        checkpoints.page_bytes = disk.num_bytes
        checkpoints.pages_pending = disk.num_writing
    if journaled is not None:
        _add_journal(checkpoints, journaled)
    return checkpoints


def _add_journal(checkpoints: pb.WorkerCheckpoints, journaled: Journaled) -> None:
    stats = journaled.stats
    checkpoints.journal_state = (
        pb.JOURNAL_STATE_WRITTEN if stats.is_writing else pb.JOURNAL_STATE_GIVEN_UP
    )
    checkpoints.journal_bytes = stats.num_bytes
    checkpoints.journal_failures_total = stats.num_failures
    checkpoints.requests_left_out_total = stats.num_left_out
    checkpoints.request_count = stats.num_live
    listed = islice(journaled.requests, MAX_LISTED_REQUESTS)
    checkpoints.requests.extend(_request(each, journaled.recoverable) for each in listed)


def _request(request: LiveRequest, recoverable: Collection[Handle]) -> pb.RequestCheckpoint:
    caller = _caller_of(request)
    checkpoint = pb.RequestCheckpoint(
        request_id=caller.request_id,
        tenant=caller.tenant,
        principal=caller.principal,
        state=_state_of(request, recoverable),
        output_tokens=request.num_tokens,
    )
    checkpoint.begin_time.FromMilliseconds(request.began.began_ms)
    return checkpoint


def _caller_of(request: LiveRequest) -> worker_pb.Caller:
    try:
        return worker_pb.RunRequest.FromString(request.began.request).caller
    except DecodeError:
        return worker_pb.Caller()


def _state_of(request: LiveRequest, recoverable: Collection[Handle]) -> pb.RequestState.ValueType:
    if request.began.handle in recoverable:
        return pb.REQUEST_STATE_RECOVERABLE
    if request.cached_tokens is None:
        return pb.REQUEST_STATE_WAITING
    return pb.REQUEST_STATE_RUNNING
