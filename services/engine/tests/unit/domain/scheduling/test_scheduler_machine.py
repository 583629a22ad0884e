"""Random sequences of everything that can happen; integrity is checked after each step."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from caravan_engine.backends.fake import FakeBackend, letters
from caravan_engine.domain.errors import (
    ContextLengthExceededError,
    DecodeFailedError,
    QueueFullError,
)
from caravan_engine.domain.request import ClientKey

NUM_CELLS, BUDGET, CONTEXT = 60, 7, 40


def expected_tokens(sequence):
    """What the sequence generates when nothing ever happens to it."""
    history = list(sequence.request.prompt)
    while len(history) < sequence.max_tokens:
        history.append(letters(history))
    return history[len(sequence.request.prompt) :]


class SchedulerMachine(RuleBasedStateMachine):
    make_rig = None  # the test sets it

    def __init__(self):
        super().__init__()
        self.fail_next = False
        backend = FakeBackend(
            num_cells=NUM_CELLS, batch_tokens=BUDGET, fails=lambda _step, _plan: self.code()
        )
        self.rig = self.make_rig(
            backend,
            num_seats=3,
            token_budget=BUDGET,
            context_tokens=CONTEXT,
            queue_capacity=5,
            client_weights={"b": 2.0},
            queue_timeout_s=20,
            max_unread_tokens=4,
            reader_stall_s=10,
        )
        self.sequences = []

    def code(self):
        """Fails a step on demand, but nobody twice in a row: that would end them."""
        if not self.fail_next or any(s.num_failures for s in self.rig.scheduler.running):
            return None
        self.fail_next = False
        return -3

    @rule(
        length=st.integers(1, CONTEXT + 2),
        is_like=st.sampled_from([0, 0, 8, 17]),
        max_output=st.integers(1, 20),
        priority=st.sampled_from([1, 10, 50]),
        deadline_s=st.none() | st.floats(0, 30),
        num_choices=st.sampled_from([1, 1, 2, 3]),
        tenant=st.sampled_from("aaab"),
        is_endless=st.booleans(),
    )
    def submit(self, length, is_like, max_output, tenant, **drawn):
        now = self.rig.clock()
        own = [len(self.sequences) * 7 + i for i in range(length)]
        prompt = bytes(each % 251 for each in [*range(is_like), *own[is_like:]][:length])
        wait_s, num_choices = drawn["deadline_s"], drawn["num_choices"]
        try:
            group = self.rig.submit_group(
                prompt,
                max_output=max_output,
                priority=drawn["priority"],
                deadline=None if wait_s is None else now + wait_s,
                choice_count=num_choices,
                client=ClientKey(tenant),
                ignore_eos=drawn["is_endless"],
            )
        except ContextLengthExceededError:
            assert length >= CONTEXT or length - 1 + num_choices > NUM_CELLS - num_choices
        except QueueFullError:
            assert self.rig.gate.num_waiting == 5
        else:
            self.sequences += group.sequences

    @rule(count=st.integers(1, 5))
    def step(self, count):
        for _ in range(count):
            self.rig.step()
            self.rig.check_integrity()

    @rule()
    def hear_of_the_displaced(self):
        self.rig.end_displaced()

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds):
        self.rig.clock.advance(seconds)

    @rule()
    def make_the_next_step_fail(self):
        self.fail_next = True

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def cancel(self, data):
        sequence = data.draw(st.sampled_from(self.sequences))
        self.rig.scheduler.cancel(sequence.group, self.rig.clock())

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), num_unread=st.sampled_from([0, 4]))
    def read(self, data, num_unread):
        data.draw(st.sampled_from(self.sequences)).output.num_unread = num_unread

    @invariant()
    def everybody_ends_once_and_has_the_undisturbed_tokens(self):
        for sequence in self.sequences:
            errors = sequence.group.output.errors
            assert not any(isinstance(error, DecodeFailedError) for error in errors)
            wanted = expected_tokens(sequence)
            if sequence.output.finished:
                assert sequence.output.tokens == wanted
            else:
                assert sequence.output.tokens == wanted[: len(sequence.output.tokens)]

    @invariant()
    def the_gate_counts_exactly_who_waits(self):
        groups = {sequence.group for sequence in self.sequences}
        running = {sequence.group for sequence in self.rig.scheduler.running}
        new = [each for each in groups - running if each.live and not each.num_parkings]
        displaced = [each for each in groups if self.rig.gate.is_displaced(each)]
        assert self.rig.gate.num_waiting == len(new) - len(displaced) <= 5
        assert set(displaced) <= set(new)

    @invariant()
    def a_request_ends_once_and_only_when_all_its_choices_have(self):
        for group in {sequence.group for sequence in self.sequences}:
            ends = group.output.num_completed + len(group.output.errors)
            assert ends == (not group.live)
            finished = [each for each in group.sequences if each.output.finished]
            assert not group.output.num_completed or len(finished) == len(group.sequences)
            assert all(len(each.output.finished) <= 1 for each in group.sequences)

    def teardown(self):
        self.fail_next = False
        for sequence in self.sequences:
            sequence.output.num_unread = 0
        self.rig.run()
        assert not any(each.group.live for each in self.sequences)
        assert self.rig.scheduler.is_idle
        self.rig.carry_out_moves()
        assert self.rig.backend.num_used_cells == 0


def test_nothing_that_happens_breaks_integrity_or_a_text(make_rig):
    run_state_machine_as_test(
        type("Machine", (SchedulerMachine,), {"make_rig": staticmethod(make_rig)}),
        settings=settings(max_examples=300, stateful_step_count=50, deadline=None),
    )
