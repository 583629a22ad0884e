import numpy as np
import pytest

from caravan_engine.backends.fake import FakeBackend, scripted
from caravan_engine.domain.errors import (
    DeadlineExceededError,
    DecodeFailedError,
    QueueTimeoutError,
    ReaderStalledError,
    RequestCancelledError,
)
from caravan_engine.domain.events import FinishReason
from caravan_engine.domain.paging.moves import Release
from caravan_engine.domain.sampling.options import SamplingOptions


def sizes(plan):
    return {chunk.seq_id: len(chunk.tokens) for chunk in plan.chunks}


# ── batching ──


def test_sequences_join_and_leave_at_every_step(make_rig):
    rig = make_rig()
    first = rig.submit(b"aaaa", max_output=3)
    assert sizes(rig.step()) == {0: 4}
    second = rig.submit(b"bb", max_output=3)
    assert sizes(rig.step()) == {0: 1, 1: 2}
    assert sizes(rig.step()) == {0: 1, 1: 1}
    assert sizes(rig.step()) == {1: 1}
    assert sizes(rig.step()) == {}
    assert first.output.finished == second.output.finished == [FinishReason.LENGTH]


def test_decode_tokens_come_first_and_prompts_fill_the_budget_in_order(make_rig):
    rig = make_rig(token_budget=8)
    rig.submit(b"a", max_output=99)
    rig.step()
    rig.submit(b"b" * 10)
    rig.submit(b"c" * 10)
    plans = [sizes(rig.step()) for _ in range(4)]
    assert plans[:3] == [{0: 1, 1: 7}, {0: 1, 1: 3, 2: 4}, {0: 1, 1: 1, 2: 6}]


def test_no_step_is_larger_than_the_budget(make_rig):
    rig = make_rig(FakeBackend(batch_tokens=8), token_budget=8)
    for length in (30, 1, 17, 8, 9):
        rig.submit(b"x" * length, max_output=5)
    rig.run()
    assert max(plan.num_tokens for plan in rig.backend.plans) == 8


def test_only_the_chunk_that_ends_a_history_samples(make_rig):
    rig = make_rig(token_budget=4)
    rig.submit(b"x" * 10, max_output=1)
    rig.run()
    samples = [[chunk.sampler is not None for chunk in p.chunks] for p in rig.backend.plans]
    assert samples == [[False], [False], [True]]


def test_the_text_does_not_depend_on_companions_chunks_or_seats(make_rig):
    def texts(prompts, **limits):
        rig = make_rig(**limits)
        options = SamplingOptions(temperature=2.0, top_k=50)
        sequences = [
            rig.submit(prompt, max_output=20, seed=index, sampling=options)
            for index, prompt in prompts
        ]
        rig.run()
        return [each.output.text for each in sequences]

    prompts = [(index, b"prompt %d" % index) for index in range(6)]
    alone = [texts([each])[0] for each in prompts]
    assert texts(prompts) == alone
    assert texts(prompts, num_seats=2, token_budget=3) == alone
    assert len(set(alone)) == 6


# ── ends ──


def test_an_end_token_is_neither_emitted_nor_counted(make_rig):
    rig = make_rig(FakeBackend(next_token=scripted({b"go": b"yes"})))
    sequence = rig.submit(b"go")
    rig.run()
    assert sequence.output.text == "yes"
    assert sequence.num_output_tokens == 3
    assert sequence.output.finished == [FinishReason.END_OF_TEXT]


def test_with_ignore_eos_the_end_token_is_never_chosen(make_rig):
    rig = make_rig(FakeBackend(next_token=scripted({b"go": b"yes"})))
    sequence = rig.submit(b"go", max_output=3, ignore_eos=True)
    rig.run()
    assert sequence.output.finished == [FinishReason.LENGTH]


def test_the_output_ends_at_the_context(make_rig):
    rig = make_rig(context_tokens=10)
    sequence = rig.submit(b"12345678", max_output=99)
    rig.run()
    assert sequence.num_output_tokens == 2
    assert sequence.output.finished == [FinishReason.LENGTH]


def test_everything_is_free_when_all_are_over(make_rig):
    rig = make_rig()
    for number in range(9):
        rig.submit(b"n%d" % number)
    rig.run()
    assert rig.backend.num_used_cells == 0
    assert rig.scheduler.is_idle
    assert rig.gate.num_waiting == 0
    assert rig.observer.outcomes == ["length"] * 9


# ── seats and cells ──


def test_higher_priority_is_seated_first_and_equals_in_order(make_rig):
    rig = make_rig(num_seats=1)
    order = [rig.submit(b"x", max_output=1, priority=priority) for priority in (10, 50, 10, 100)]
    started = []
    while not rig.scheduler.is_idle:
        rig.step()
        started += [each for each in order if each.output.started and each not in started]
    assert started == [order[3], order[1], order[0], order[2]]


def test_cells_are_promised_for_the_longest_output_where_nothing_can_be_parked(make_rig):
    rig = make_rig(FakeBackend(num_cells=100), kv={"host_budget_bytes": 0})
    first = rig.submit(b"x" * 10, max_output=50)
    second = rig.submit(b"x" * 10, max_output=50)
    rig.step()
    assert [first.output.started, second.output.started] == [True, False]
    rig.run()
    assert second.output.finished == [FinishReason.LENGTH]


def test_who_does_not_fit_yet_is_not_overtaken(make_rig):
    rig = make_rig(FakeBackend(num_cells=100), num_cells=100)
    rig.submit(b"x" * 10, max_output=50)
    large = rig.submit(b"y" * 90, max_output=10)
    small = rig.submit(b"z", max_output=1)
    rig.step()
    assert not large.output.started
    assert not small.output.started
    rig.run()
    assert large.output.finished == small.output.finished == [FinishReason.LENGTH]


# ── cancellation, deadlines, queue timeout ──


@pytest.mark.parametrize("moment", ["queue", "prefill", "decode"])
def test_a_cancelled_sequence_is_gone_within_one_step(make_rig, moment):
    rig = make_rig(num_seats=1, token_budget=4)
    if moment == "queue":
        rig.submit(b"other", max_output=99)
    sequence = rig.submit(b"x" * (10 if moment == "prefill" else 2), max_output=99)
    rig.step()
    rig.step()
    rig.scheduler.cancel(sequence.group, rig.clock())
    plan = rig.step()
    assert [type(each) for each in sequence.output.errors] == [RequestCancelledError]
    if moment != "queue":
        assert Release(0) in plan.moves
        assert rig.backend.num_used_cells == 0
    assert rig.gate.num_waiting == 0


@pytest.mark.parametrize("moment", ["queue", "prefill", "decode"])
def test_a_deadline_ends_a_sequence_within_one_step(make_rig, moment):
    rig = make_rig(num_seats=1, token_budget=4)
    if moment == "queue":
        rig.submit(b"other", max_output=99)
    deadline = rig.clock() + 5
    prompt = b"x" * (10 if moment == "prefill" else 2)
    sequence = rig.submit(prompt, max_output=99, deadline=deadline)
    rig.step()
    rig.step()
    assert rig.scheduler.next_wakeup() == deadline
    rig.clock.advance(5)
    rig.step()
    assert [type(each) for each in sequence.output.errors] == [DeadlineExceededError]


def test_who_waits_too_long_is_told_so(make_rig):
    rig = make_rig(num_seats=1, queue_timeout_s=30)
    rig.submit(b"x", max_output=99)
    waiting = rig.submit(b"y")
    rig.step()
    rig.clock.advance(29.9)
    rig.step()
    assert waiting.output.num_ends == 0
    rig.clock.advance(0.1)
    rig.step()
    assert [type(each) for each in waiting.output.errors] == [QueueTimeoutError]
    assert waiting.output.errors[0].metadata == {"waited_ms": "30000"}
    assert rig.gate.num_waiting == 0


def test_cancelling_twice_or_after_the_end_does_nothing(make_rig):
    rig = make_rig()
    sequence = rig.submit(b"x", max_output=1)
    rig.run()
    other = rig.submit(b"y", max_output=9)
    rig.step()
    rig.scheduler.cancel(sequence.group, rig.clock())
    rig.run()
    assert sequence.output.num_ends == other.output.num_ends == 1
    assert other.output.finished == [FinishReason.LENGTH]


def test_ending_all_leaves_nobody(make_rig):
    rig = make_rig(num_seats=2)
    sequences = [rig.submit(b"x", max_output=99) for _ in range(5)]
    rig.step()
    assert rig.scheduler.end_all(RequestCancelledError(), rig.clock()) == 5
    rig.step()
    assert [each.output.num_ends for each in sequences] == [1] * 5
    assert rig.backend.num_used_cells == 0
    assert rig.scheduler.is_idle


# ── slow readers ──


def test_a_slow_reader_pauses_its_sequence_and_nobody_else(make_rig):
    rig = make_rig(max_unread_tokens=4)
    slow, fast = rig.submit(b"s", max_output=20), rig.submit(b"f", max_output=20)
    for _ in range(3):
        rig.step()
    slow.output.num_unread = 4
    for _ in range(5):
        assert sizes(rig.step()) == {1: 1}
    assert rig.scheduler.num_paused == 1
    slow.output.num_unread = 0
    assert sizes(rig.step()) == {0: 1, 1: 1}
    rig.run()
    assert slow.output.finished == fast.output.finished == [FinishReason.LENGTH]


def test_a_stalled_reader_loses_its_sequence_after_a_while(make_rig):
    rig = make_rig(max_unread_tokens=4, reader_stall_s=60)
    slow = rig.submit(b"s", max_output=20)
    rig.step()
    slow.output.num_unread = 4
    paused_at = rig.clock()
    assert rig.step().is_empty
    assert rig.scheduler.next_wakeup() == paused_at + 60
    rig.clock.advance(60)
    rig.step()
    assert [type(each) for each in slow.output.errors] == [ReaderStalledError]
    assert rig.backend.num_used_cells == 0


# ── failures ──


def test_a_failed_step_is_replayed_and_the_texts_stay_the_same(make_rig):
    def texts(fails):
        rig = make_rig(FakeBackend(fails=fails), token_budget=8)
        sequences = [rig.submit(b"prompt %d" % n, max_output=9, seed=n) for n in range(4)]
        rig.run()
        assert all(each.output.finished == [FinishReason.LENGTH] for each in sequences)
        return [each.output.text for each in sequences]

    undisturbed = texts(lambda _step, _plan: None)
    for failing in range(14):
        assert texts(lambda step, _plan, at=failing: -3 if step == at else None) == undisturbed


def test_only_the_sequence_that_makes_batches_fail_ends(make_rig):
    def fails(_step, plan):
        poisoned = any(ord("!") in chunk.tokens for chunk in plan.chunks)
        return -3 if poisoned else None

    rig = make_rig(FakeBackend(fails=fails))
    innocent = [rig.submit(b"fine %d" % n) for n in range(2)]
    poison = rig.submit(b"boom!")
    innocent.append(rig.submit(b"fine too"))
    rig.run()
    assert [type(each) for each in poison.output.errors] == [DecodeFailedError]
    assert all(each.output.finished == [FinishReason.LENGTH] for each in innocent)
    assert rig.backend.num_used_cells == 0


def test_after_a_failure_sequences_are_tried_again_one_by_one(make_rig):
    rig = make_rig(FakeBackend(fails=lambda step, _plan: -3 if step == 1 else None))
    for number in range(3):
        rig.submit(b"p%d" % number)
    rig.step()
    rig.step()
    assert [sizes(rig.step()) for _ in range(4)] == [{0: 3}, {1: 3}, {2: 3}, {0: 1, 1: 1, 2: 1}]


def test_unusable_logits_end_one_sequence_only(make_rig):
    def fill(history):
        return np.nan if bytes(history).startswith(b"bad") else 0.0

    rig = make_rig(FakeBackend(fill=fill))
    bad, good = rig.submit(b"bad"), rig.submit(b"good")
    rig.run()
    assert [type(each) for each in bad.output.errors] == [DecodeFailedError]
    assert good.output.finished == [FinishReason.LENGTH]
