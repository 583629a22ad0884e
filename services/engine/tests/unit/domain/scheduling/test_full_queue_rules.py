"""The gate against the plainest form of its rules, and under many threads."""

import queue
import random
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caravan_engine.domain.errors import QueueFullError
from caravan_engine.domain.request import (
    ClientKey,
    Continuation,
    Emitted,
    GenerationRequest,
)
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.scheduling.fairness import ClientWeights
from caravan_engine.domain.scheduling.queue_gate import QueueGate
from caravan_engine.domain.sequence import SequenceGroup

WEIGHTS = {"a": 2.0, "b": 0.5}


def group(client, priority, *, is_begun=False):
    request = GenerationRequest(
        request_id="r",
        prompt=(1,),
        priority=priority,
        client=ClientKey(client),
        sampling=SamplingOptions(),
        seed=0,
        continuation=Continuation((Emitted((1,)),)) if is_begun else None,
    )
    return SequenceGroup(request, [], output=None, arrived=0.0)


def weight(client):
    return WEIGHTS.get(client.tenant, 1.0)


def plain_choice(waiting, request):
    """Who of `waiting`, in order of arrival, gives way; looks at everybody."""
    num = Counter((each.request.priority, each.request.client) for each in waiting)

    def share(each):
        key = each.request.priority, each.request.client
        return num[key] / weight(each.request.client)

    new = [(share(each), at, each) for at, each in enumerate(waiting) if not each.request.is_begun]
    lower = [each for each in new if each[2].request.priority < request.priority]
    if lower:
        lowest = min(each[2].request.priority for each in lower)
        return max(each for each in lower if each[2].request.priority == lowest)[2]
    equal = [each for each in new if each[2].request.priority == request.priority]
    own = (num[request.priority, request.client] + 1) / weight(request.client)
    if equal and max(equal)[0] > own:
        return max(equal)[2]
    return None


requests = st.tuples(
    st.sampled_from("aabcd"), st.sampled_from([1, 10, 10, 10, 50]), st.integers(0, 5)
)


@given(
    capacity=st.integers(1, 8),
    events=st.lists(requests | st.integers(0, 100), max_size=60),
    hears=st.lists(st.booleans(), min_size=60, max_size=60),
)
@settings(max_examples=300, deadline=None)
def test_whoever_gives_way_is_whom_the_rules_name(capacity, events, hears):
    gate = QueueGate(capacity, ClientWeights(WEIGHTS))
    waiting, displaced = [], []
    for event, is_heard in zip(events, hears, strict=False):
        if isinstance(event, int):
            if waiting:
                gate.leave(waiting.pop(event % len(waiting)), now=0.0)
            continue
        client, priority, kind = event
        newcomer = group(client, priority, is_begun=kind == 0)
        wanted = plain_choice(waiting, newcomer.request)
        is_free = len(waiting) < capacity
        if not is_free and (wanted is None or len(displaced) == capacity):
            with pytest.raises(QueueFullError):
                gate.enter(newcomer)
        else:
            assert gate.enter(newcomer) is (None if is_free else wanted)
            waiting.append(newcomer)
            if not is_free:
                waiting.remove(wanted)
                displaced.append(wanted)
        if is_heard:
            while displaced:
                gate.leave(displaced.pop(), now=0.0)
        assert gate.num_waiting == len(waiting) <= capacity
        assert all(map(gate.is_displaced, displaced))
        assert gate.num_waiting_by_priority == Counter(each.request.priority for each in waiting)


@given(
    weights=st.tuples(*[st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0, 10.0])] * 2),
    num_own=st.integers(0, 12),
    num_other=st.integers(1, 12),
)
@settings(deadline=None)
def test_two_clients_never_take_a_place_from_each_other_in_turns(weights, num_own, num_other):
    gate = QueueGate(num_own + num_other, ClientWeights(dict(zip("xy", weights, strict=True))))
    for client in "x" * num_own + "y" * num_other:
        gate.enter(group(client, 10))
    try:
        gate.enter(group("x", 10))
    except QueueFullError:
        return
    with pytest.raises(QueueFullError):
        gate.enter(group("y", 10))


class DecodeThread:
    """Seats and ends requests in the order that it hears of them, without the submitters' lock."""

    def __init__(self, gate):
        self.gate = gate
        self.inbox = queue.SimpleQueue()
        self.ends = Counter()  # by request and how it ended
        self.most_waiting = 0
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        waiting = {}
        draws = random.Random(1)
        while (command := self.inbox.get()) is not None:
            kind, each = command
            if kind == "begin":
                waiting[each] = None
            elif self.gate.is_displaced(each):
                del waiting[each]
                self.end(each, "displaced")
            if waiting and draws.random() < 0.5:
                first = next(iter(waiting)) if draws.random() < 0.5 else next(reversed(waiting))
                del waiting[first]
                self.end(first, "seated")
            self.most_waiting = max(self.most_waiting, len(waiting))
        for each in waiting:
            assert not self.gate.is_displaced(each)
            self.end(each, "seated")

    def end(self, each, how):
        self.gate.leave(each, now=0.0)
        self.ends[each, how] += 1


def test_with_many_threads_everybody_ends_once_and_the_bound_holds():
    capacity, num_threads, num_requests = 16, 6, 400
    gate = QueueGate(capacity, ClientWeights(WEIGHTS))
    decoding = DecodeThread(gate)
    lock = threading.Lock()
    outcomes = queue.SimpleQueue()

    def submit(number):
        draws = random.Random(number)
        for _ in range(num_requests):
            each = group(draws.choice("abcd"), draws.choice([1, 10, 10, 50]))
            try:
                with lock:  # as the entrance does
                    displaced = gate.enter(each)
                    decoding.inbox.put(("begin", each))
                    if displaced is not None:
                        decoding.inbox.put(("end", displaced))
            except QueueFullError:
                outcomes.put((each, False))
            else:
                outcomes.put((each, True))
            assert gate.num_waiting <= capacity

    threads = [threading.Thread(target=submit, args=(n,), daemon=True) for n in range(num_threads)]
    for each in (decoding.thread, *threads):
        each.start()
    for each in threads:
        each.join(timeout=60)
    decoding.inbox.put(None)
    decoding.thread.join(timeout=60)
    assert not any(each.is_alive() for each in (decoding.thread, *threads))
    results = [outcomes.get() for _ in range(num_threads * num_requests)]
    num_ends = Counter(each for each, _ in decoding.ends.elements())
    assert all(num_ends[each] == is_in for each, is_in in results)
    assert gate.num_waiting == 0
    assert decoding.most_waiting <= 2 * capacity
    assert {how for _, how in decoding.ends} == {"seated", "displaced"}
