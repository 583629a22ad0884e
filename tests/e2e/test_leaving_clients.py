"""Deadlines that pass, and clients that leave or don't read: nothing is left of their calls."""

import contextlib
import threading
from collections.abc import Iterator

import grpc
import pytest
from slow_model import MODEL, SETTLE_S, stream

from caravan.inference.v1 import embedding_pb2
from caravan.inference.v1 import generation_pb2 as pb
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until

pytestmark = pytest.mark.usefixtures("small_stack_stays")
LONG_PROMPT = "hello " * 3000


@pytest.fixture
def client(small_admin):
    return small_admin


@contextlib.contextmanager
def all_seats_taken(client) -> Iterator[list[threading.Event]]:
    """Two generations that go on for seconds; each event says that one has ended."""
    calls, ends = [], []
    for _ in range(2):
        calls.append(stream(client, text="Once upon", max_output_tokens=1900, ignore_eos=True))
        first = [next(calls[-1]).WhichOneof("event") for _ in range(2)]
        assert first == ["started", "delta"]
        ends.append(threading.Event())
        threading.Thread(target=read_on, args=(calls[-1], ends[-1]), daemon=True).start()
    try:
        yield ends
    finally:
        for call in calls:
            call.cancel()
        for end in ends:
            assert end.wait(SETTLE_S)


def read_on(call, end):
    with contextlib.suppress(grpc.RpcError):
        for _ in call:
            pass
    end.set()


def events_until_late(call):
    """What came before the deadline passed."""
    kinds = []
    with pytest.raises(grpc.RpcError) as caught:
        read_into(kinds, call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return kinds


def read_into(kinds, call):
    for event in call:
        kinds.append(event.WhichOneof("event"))


@pytest.mark.parametrize("timeout_s", [1e-9, 1e-3])
def test_a_deadline_that_is_past_is_told_as_such(client, worker, timeout_s):
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(client, timeout=timeout_s, max_output_tokens=1900, ignore_eos=True))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: worker.look().is_idle, timeout_s=SETTLE_S, what="an idle worker")


def test_a_deadline_that_passes_in_the_queue_ends_the_call(client, worker):
    before = worker.num_ended
    with all_seats_taken(client) as ends:
        waiting = stream(client, timeout=1.0)
        assert list(events_until_late(waiting)) == []
        assert not any(end.is_set() for end in ends)
    worker.await_end(before, 3)


def test_a_deadline_that_passes_in_prefill_ends_the_call(client, worker):
    before = worker.num_ended
    call = stream(client, timeout=1.0, text=LONG_PROMPT)
    assert events_until_late(call) in (["started"], [])
    worker.await_end(before)


def test_a_deadline_that_passes_in_decode_ends_the_call(client, worker):
    before = worker.num_ended
    call = stream(client, timeout=2.0, max_output_tokens=4000, ignore_eos=True)
    assert set(events_until_late(call)) == {"started", "delta"}
    worker.await_end(before)


def test_a_client_that_leaves_the_queue_leaves_nothing(client, worker):
    before = worker.num_ended
    with all_seats_taken(client):
        waiting = stream(client)
        wait_until(lambda: worker.look().num_waiting == 1, timeout_s=SETTLE_S, what="the queue")
        waiting.cancel()
        wait_until(
            lambda: worker.look().num_ended == before + 1 and worker.num_waiting == 0,
            timeout_s=SETTLE_S,
            what="the queue to be empty",
        )
        assert worker.num_running == 2
    worker.await_end(before, 3)


def test_a_client_that_leaves_in_prefill_leaves_nothing(client, worker):
    before = worker.num_ended
    call = stream(client, text=LONG_PROMPT)
    assert next(call).WhichOneof("event") == "started"
    call.cancel()
    worker.await_end(before)


def test_a_client_that_leaves_in_decode_leaves_nothing(client, worker):
    before = worker.num_ended
    call = stream(client, max_output_tokens=4000, ignore_eos=True)
    assert [next(call).WhichOneof("event") for _ in range(3)] == ["started", "delta", "delta"]
    call.cancel()
    worker.await_end(before)


def test_a_client_whose_connection_breaks_leaves_nothing(client, worker, connect_to_small):
    before = worker.num_ended
    other = connect_to_small()
    call = stream(other, max_output_tokens=4000, ignore_eos=True)
    assert next(call).WhichOneof("event") == "started"
    other.close()
    worker.await_end(before)


def test_a_reader_that_never_reads_is_cut_off(client, worker, connect_to_small):
    before = worker.num_ended
    tiny_window = (("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0))
    call = stream(
        connect_to_small(tiny_window),
        text="Once upon",
        max_output_tokens=4000,
        ignore_eos=True,
        logprobs=pb.LogprobOptions(top_count=20),
    )
    worker.await_end(before)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    details = error_details(caught.value)
    assert (caught.value.code(), details.reason) == (grpc.StatusCode.ABORTED, "READER_STALLED")


def test_an_embedding_that_is_late_or_left_leaves_nothing(client, worker):
    inputs = [embedding_pb2.EmbedInput(text=f"{number} " + "hello " * 400) for number in range(64)]
    message = embedding_pb2.EmbedRequest(model=MODEL, inputs=inputs)
    before = worker.num_ended
    with pytest.raises(grpc.RpcError) as caught:
        client.inference.Embed(message, metadata=client.metadata, timeout=1.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    worker.await_end(before)

    before = worker.num_ended
    call = client.inference.Embed.future(message, metadata=client.metadata, timeout=60)
    wait_until(lambda: not worker.look().is_idle, timeout_s=SETTLE_S, what="the work")
    call.cancel()
    worker.await_end(before)
