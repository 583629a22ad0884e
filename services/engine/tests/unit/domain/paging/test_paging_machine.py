"""Everything that can happen to the memory of requests, in any order, checked after each step."""

import os
import random
import sys
import time

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.errors import (
    ContextLengthExceededError,
    DecodeFailedError,
    QueueFullError,
)
from caravan_engine.domain.paging.page_image import root_key
from caravan_engine.domain.request import ClientKey
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.scheduling.batch_policy import DecodeFirst
from caravan_engine.domain.scheduling.side_limits import SideLimits

NUM_SEATS, TOKEN_BUDGET, CONTEXT, PAGE_SIZE = 4, 9, 44, 8
BYTES_PER_TOKEN = 24
TENANTS = ("acme", "other")
HOST_BUDGETS = st.sampled_from([0, 5, 12, 30, 100, 10_000]).map(lambda n: n * BYTES_PER_TOKEN)
DIVERGING = SamplingOptions(temperature=3.0, top_k=8, top_p=1.0, min_p=0.0)
PHASES = (Phase.generate,)  # shrinking takes longer than a look at the steps
NUM_TEST_RUNS, NUM_TEST_STEPS = 120, 40
NUM_SOAK_RUNS, NUM_SOAK_STEPS = 25, 80


def undisturbed(sequence, num_tokens, backend):
    """What a sequence generates when nothing ever happens to it."""
    request = sequence.request
    sampler = TokenSampler(
        request.sampling,
        seed=request.seed,
        choice_index=sequence.choice_index,
        candidates=backend.candidate_filter(request.sampling),
        history=request.prompt,
    )
    alone = FakeBackend()
    history = list(request.prompt)
    while len(history) < len(request.prompt) + num_tokens:
        row = alone.row_after(history)
        history.append(sampler.choose(row, len(history)))
        sampler.accept(history[-1])
    return history[len(request.prompt) :]


class PagingMachine(RuleBasedStateMachine):
    make_rig = make_disk = None  # the test sets them
    num_steps = 0  # of all runs

    def __init__(self):
        super().__init__()
        self.sequences = []
        self.wanted = {}
        self.fails_next = False
        self.num_refusals = 0

    @initialize(
        num_cells=st.sampled_from([48, 60, 90]),
        is_device=st.booleans(),
        num_shelf_ids=st.sampled_from([0, 1, 3]),
        host_bytes=HOST_BUDGETS,
        has_disk=st.booleans(),
        coalesces=st.booleans(),
        can_cut=st.sampled_from([True, True, True, False]),
        checkpoints=st.booleans(),
    )
    def begin(self, num_cells, is_device, host_bytes, has_disk, can_cut, **kv):
        self.backend = FakeBackend(
            num_cells=num_cells,
            batch_tokens=TOKEN_BUDGET,
            fails=lambda _step, _plan: self.failure_code(),
            refuses=lambda _image: self.is_refused(),
        )
        self.disk = self.make_disk(100 * BYTES_PER_TOKEN) if has_disk else None
        self.can_cut = can_cut
        self.rig = self.make_rig(
            self.backend,
            disk=self.disk,
            num_seats=NUM_SEATS,
            token_budget=TOKEN_BUDGET,
            context_tokens=CONTEXT,
            queue_capacity=8,
            queue_timeout_s=60,
            max_unread_tokens=4,
            reader_stall_s=20,
            can_share=can_cut,
            batch_policy=DecodeFirst(tile=4, enough_tokens=8) if can_cut else None,
            side=SideLimits(TOKEN_BUDGET, 2, least_others=4) if can_cut else None,
            kv={
                "page_size": PAGE_SIZE,
                "bytes_per_token": BYTES_PER_TOKEN,
                "host_budget_bytes": host_bytes,
                "cells_cost_time": not is_device,
                "can_cut": can_cut,
                **kv,
            },
        )
        self.store = self.rig.kv.store

    def failure_code(self):
        """Fails a step on demand, but nobody twice in a row: that would end them."""
        if not self.fails_next or any(s.num_failures for s in self.rig.scheduler.running):
            return None
        self.fails_next = False
        return -3

    def is_refused(self):
        self.num_refusals -= self.num_refusals > 0
        return self.num_refusals > 0

    # ── what clients do ──

    @rule(
        length=st.integers(1, CONTEXT + 2),
        common=st.sampled_from([0, 5, 8, 13, 24, 31]),
        family=st.integers(0, 2),
        max_output=st.integers(1, 24),
        priority=st.sampled_from([1, 10, 10, 50]),
        deadline_s=st.sampled_from([None, None, None, 3.0, 15.0]),
        num_choices=st.sampled_from([1, 1, 1, 2, 3]),
        tenant=st.sampled_from(TENANTS),
        is_endless=st.booleans(),
    )
    def submit(self, length, common, family, max_output, tenant, **drawn):
        own = [len(self.sequences) * 7 + at for at in range(length)]
        beginning = [family * 50 + at for at in range(min(common, length))]
        self.send(
            [*beginning, *own[len(beginning) :]],
            max_output=max_output,
            priority=drawn["priority"],
            deadline=None if (wait_s := drawn["deadline_s"]) is None else self.rig.clock() + wait_s,
            choice_count=drawn["num_choices"],
            ignore_eos=drawn["is_endless"],
            client=ClientKey(tenant),
        )

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), num_own=st.integers(0, 6), max_output=st.integers(1, 10))
    def go_on(self, data, num_own, max_output):
        """A next turn, or the same question again, while the last one may still run."""
        earlier = data.draw(st.sampled_from(self.sequences))
        tokens = [*earlier.tokens, *range(num_own)]
        self.send(tokens, max_output=max_output, client=earlier.request.client)

    def send(self, tokens, **fields):
        prompt = bytes(token % 251 for token in tokens)
        try:
            group = self.rig.submit_group(
                prompt, sampling=DIVERGING, seed=len(self.sequences), **fields
            )
        except ContextLengthExceededError:
            pass
        except QueueFullError:
            assert self.rig.gate.num_waiting == 8
        else:
            self.sequences += group.sequences

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def cancel(self, data):
        sequence = data.draw(st.sampled_from(self.sequences))
        self.rig.scheduler.cancel(sequence.group, self.rig.clock())

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), num_unread=st.sampled_from([0, 4]))
    def read(self, data, num_unread):
        data.draw(st.sampled_from(self.sequences)).output.num_unread = num_unread

    # ── what time brings ──

    @rule(count=st.integers(1, 6), looks=st.booleans())
    def step(self, count, looks):
        for _ in range(count):
            self.rig.step()
            type(self).num_steps += 1
            if looks:  # which carries out at once what the next step would do
                self.rig.check_integrity()
            self.check_budgets()

    @rule(seconds=st.sampled_from([0.5, 2.0, 9.0]))
    def wait(self, seconds):
        self.rig.clock.advance(seconds)

    @rule()
    def make_the_next_step_fail(self):
        self.fails_next = True

    @rule(count=st.integers(1, 2))
    def refuse_imports(self, count):
        self.num_refusals = count + 1

    # ── what happens to pages ──

    @rule(host_bytes=HOST_BUDGETS)
    def change_host_budget(self, host_bytes):
        self.store.resize(host_bytes=host_bytes, disk_bytes=None)
        self.check_budgets()

    @rule(data=st.data())
    def damage_an_image(self, data):
        if nodes := [node for node in self.store.tree if node.image is not None]:
            data.draw(st.sampled_from(nodes)).image.data[0] ^= 1

    @rule(tenant=st.sampled_from(TENANTS))
    def drop_a_tenant(self, tenant):
        images = [n.image for n in self.pages_of(tenant) if n.image is not None]
        self.store.drop_all(root_key("", tenant))
        assert not list(self.pages_of(tenant))
        assert not any(any(image.data) for image in images)

    def pages_of(self, tenant):
        root = root_key("", tenant)
        return (node for node in self.store.tree if node.info.root == root)

    @precondition(lambda self: self.disk)
    @rule(num_writes=st.integers(0, 5), num_reads=st.integers(0, 5), damages=st.booleans())
    def let_the_disk_work(self, num_writes, num_reads, damages):
        self.disk.damages_reads = damages
        self.disk.write_some(num_writes)
        self.disk.read_some(num_reads)
        self.disk.damages_reads = False

    @precondition(lambda self: self.disk and self.disk.pages)
    @rule(data=st.data())
    def lose_a_page_on_disk(self, data):
        self.disk.lose(data.draw(st.sampled_from(sorted(self.disk.pages))))

    @precondition(lambda self: self.disk)
    @rule(num_tokens=st.sampled_from([0, 30, 100]))
    def change_disk_budget(self, num_tokens):
        self.store.resize(host_bytes=None, disk_bytes=num_tokens * BYTES_PER_TOKEN)

    # ── what always holds ──

    def check_budgets(self):
        host = self.store.host
        images = [node.image for node in self.store.tree if node.image is not None]
        assert host.num_bytes == sum(len(image.data) for image in images) <= host.budget_bytes
        assert (len(host), host.num_tokens) == (
            len(images),
            sum(len(image.info.tokens) for image in images),
        )

    @invariant()
    def everybody_has_the_undisturbed_tokens(self):
        for sequence in self.sequences:
            output = sequence.output
            errors = sequence.group.output.errors
            assert not any(isinstance(error, DecodeFailedError) for error in errors)
            if sequence not in self.wanted:
                most = sequence.max_tokens - len(sequence.request.prompt)
                self.wanted[sequence] = undisturbed(sequence, most, self.backend)
            wanted = self.wanted[sequence]
            assert output.tokens == wanted[: len(output.tokens)]
            assert not output.finished or len(output.tokens) == len(wanted)

    @invariant()
    def pages_are_genuine_and_in_their_place(self):
        if not self.sequences:
            return
        for node in self.store.tree:
            assert node.info.is_genuine
            assert node.parent is not None
            assert node.info.parent == node.parent.info.key
            assert node.info.start == node.parent.info.end
            assert node.is_stored or node.is_on_its_way

    def teardown(self):
        if not hasattr(self, "rig"):
            return
        self.fails_next, self.num_refusals = False, 0
        for sequence in self.sequences:
            sequence.output.num_unread = 0
        self.settle()
        assert not any(each.group.live for each in self.sequences)
        assert self.rig.scheduler.is_idle
        assert self.rig.gate.num_waiting == 0
        self.everybody_has_the_undisturbed_tokens()
        self.check_rest()
        self.check_that_all_can_go()

    def settle(self):
        for _ in range(100):
            self.rig.run()
            if self.disk is None or not self.disk.num_orders:
                break
            self.disk.write_some()
            self.disk.read_some()
        self.rig.run()
        self.rig.check_integrity()

    def check_rest(self):
        """What is left when nobody runs."""
        nodes = list(self.store.tree)
        assert not any(node.num_pins or node.is_being_read for node in nodes)
        assert all(node.is_stored for node in nodes)
        assert len(nodes) == self.store.num_pages
        on_shelf = {id(node) for node in nodes if node.shelf is not None}
        assert on_shelf == {id(node) for node in self.store.shelf}
        assert self.backend.num_used_cells <= sum(len(n.tokens) for n in self.store.shelf)
        if self.disk:
            assert set(self.disk.pages) == {n.info.key for n in nodes if n.is_on_disk}

    def check_that_all_can_go(self):
        for tenant in TENANTS:
            self.store.drop_all(root_key("", tenant))
        self.rig.carry_out_moves()
        assert self.backend.num_used_cells == self.rig.kv.cells.num_used == 0
        assert self.store.num_pages == self.store.host.num_bytes == 0
        assert not list(self.store.tree)
        if self.disk:
            self.disk.write_some()
            self.rig.kv.hear()
            assert not self.disk.pages


def machine(make_rig, make_disk, number=None):
    fields = {"make_rig": staticmethod(make_rig), "make_disk": staticmethod(make_disk)}
    made = type("Machine", (PagingMachine,), {**fields, "num_steps": 0})
    return made if number is None else seed(number)(made)


def test_nothing_that_happens_to_pages_changes_a_text_or_loses_memory(make_rig, make_disk):
    run_state_machine_as_test(
        machine(make_rig, make_disk),
        settings=settings(
            max_examples=NUM_TEST_RUNS,
            stateful_step_count=NUM_TEST_STEPS,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.soak
def test_nothing_does_for_long(make_rig, make_disk):
    number = int(os.environ.get("CARAVAN_SOAK_SEED") or random.randrange(2**32))
    end = time.monotonic() + float(os.environ.get("CARAVAN_SOAK_S") or 120)
    num_steps = 0
    print(f"CARAVAN_SOAK_SEED={number}", file=sys.stderr)
    while time.monotonic() < end:
        made = machine(make_rig, make_disk, number)
        run_state_machine_as_test(
            made,
            settings=settings(
                max_examples=NUM_SOAK_RUNS,
                stateful_step_count=NUM_SOAK_STEPS,
                deadline=None,
                database=None,
                phases=PHASES,
                suppress_health_check=list(HealthCheck),
            ),
        )
        num_steps += made.num_steps
        number += 1
    print(f"{num_steps} steps up to CARAVAN_SOAK_SEED={number - 1}", file=sys.stderr)
