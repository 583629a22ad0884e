"""Random orders of what happens to pages, on llama.cpp itself: its memory stays right to the byte.

Smaller than the machine that runs on the stand-in. Texts are not compared, because companions
change rounding; memory is checked exactly instead, after each step.
"""

import os
import random
import sys
import time
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.errors import ContextLengthExceededError, QueueFullError
from caravan_engine.domain.paging.page_image import root_key
from caravan_engine.domain.request import ClientKey
from caravan_engine.domain.scheduling.batch_policy import DecodeFirst

NUM_CELLS, NUM_SEATS, NUM_SHELF_IDS, TOKEN_BUDGET = 640, 3, 3, 128
PAGE_SIZE, BYTES_PER_TOKEN = 16, 600
TENANTS = ("acme", "other")
HOST_BUDGETS = st.sampled_from([0, 40, 200, 100_000]).map(lambda n: n * BYTES_PER_TOKEN)
PHASES = (Phase.generate,)


@pytest.fixture(scope="module")
def loaded(tiny_gguf):
    settings_of_model = LlamaCppSettings(
        model_path=tiny_gguf,
        num_cells=NUM_CELLS,
        num_seats=NUM_SEATS,
        num_shelf_ids=NUM_SHELF_IDS,
        batch_tokens=TOKEN_BUDGET,
        side_context=True,
        num_threads=1,
    )
    with closing(LlamaCppBackend(settings_of_model)) as backend:
        yield backend


class LlamaMachine(RuleBasedStateMachine):
    make_rig = make_disk = make_ledger = loaded = None  # the test sets them
    num_steps = 0  # of all runs

    def __init__(self):
        super().__init__()
        self.sequences = []
        self.has_failed = False

    @initialize(is_device=st.booleans(), host_bytes=HOST_BUDGETS, has_disk=st.booleans())
    def begin(self, is_device, host_bytes, has_disk):
        self.ledger = self.make_ledger(self.loaded, NUM_CELLS)
        self.disk = self.make_disk(400 * BYTES_PER_TOKEN) if has_disk else None
        kv = {
            "page_size": PAGE_SIZE,
            "bytes_per_token": BYTES_PER_TOKEN,
            "host_budget_bytes": host_bytes,
            "cells_cost_time": not is_device,
            "num_shelf_ids": NUM_SHELF_IDS,
        }
        limits = {
            "num_seats": NUM_SEATS,
            "token_budget": TOKEN_BUDGET,
            "max_unread_tokens": 4,
            "batch_policy": DecodeFirst(tile=16, enough_tokens=64),
            "side": replace(self.loaded.side_limits, least_others=16),
        }
        self.rig = self.make_rig(
            self.ledger, disk=self.disk, kv=kv, context_tokens=500, queue_timeout_s=1e9, **limits
        )

    @rule(
        common=st.sampled_from([0, 30, 64, 200]),
        family=st.integers(0, 1),
        num_own=st.sampled_from([1, 10, 50, 250]),
        max_output=st.integers(1, 30),
        priority=st.sampled_from([1, 10, 50]),
        num_choices=st.sampled_from([1, 1, 2]),
        tenant=st.sampled_from(TENANTS),
        is_endless=st.booleans(),
    )
    def submit(self, common, family, num_own, max_output, tenant, **drawn):
        own = [len(self.sequences) * 7 + at for at in range(num_own)]
        prompt = [*(family * 50 + at for at in range(common)), *own]
        self.send(
            prompt,
            max_output=max_output,
            priority=drawn["priority"],
            choice_count=drawn["num_choices"],
            ignore_eos=drawn["is_endless"],
            client=ClientKey(tenant),
        )

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), num_own=st.integers(1, 20))
    def go_on(self, data, num_own):
        earlier = data.draw(st.sampled_from(self.sequences))
        tokens = [*earlier.tokens, *range(num_own)]
        self.send(tokens, max_output=5, client=earlier.request.client)

    def send(self, tokens, **fields):
        try:
            group = self.rig.submit_group([token % 1000 for token in tokens], **fields)
        except (ContextLengthExceededError, QueueFullError):
            return
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

    @rule(count=st.integers(1, 8))
    def step(self, count):
        for _ in range(count):
            self.rig.step()
            type(self).num_steps += 1
            self.check()

    @rule()
    def fail(self):
        if not any(each.num_failures for each in self.rig.scheduler.running):
            self.ledger.fails_next = self.has_failed = True

    @rule(data=st.data())
    def damage_an_image(self, data):
        if nodes := [node for node in self.rig.kv.store.tree if node.image is not None]:
            data.draw(st.sampled_from(nodes)).image.data[100] ^= 1
            self.has_failed = True

    @rule(host_bytes=HOST_BUDGETS)
    def change_host_budget(self, host_bytes):
        self.rig.kv.store.resize(host_bytes=host_bytes, disk_bytes=None)

    @rule(tenant=st.sampled_from(TENANTS))
    def drop_a_tenant(self, tenant):
        self.rig.kv.store.drop_all(root_key("", tenant))

    @precondition(lambda self: self.disk)
    @rule(num_writes=st.integers(0, 20), num_reads=st.integers(0, 20))
    def let_the_disk_work(self, num_writes, num_reads):
        self.disk.write_some(num_writes)
        self.disk.read_some(num_reads)

    def check(self):
        """Each position has one cell, its bytes are those that were computed, its text is right."""
        running = self.rig.scheduler.running
        self.rig.carry_out_moves()
        if any(each.num_failures for each in running):
            return
        for sequence in running:
            computed = sequence.tokens[: sequence.num_computed]
            assert self.ledger.text(sequence.seat) == computed
        positions = self.rig.kv.cells.positions()
        assert self.ledger.faults(positions) == []
        if not self.has_failed:  # then the map may take other cells than llama.cpp did
            assert all(self.loaded.cell_order(each) == positions[each] for each in positions)
        self.check_images()

    def check_images(self):
        """Images are those of the cells that the shelf keeps of the same page.

        To the byte, unless one came back from disk: what the disk had no time to read is computed
        a second time, with other companions.
        """
        for node in self.rig.kv.store.tree:
            if node.image is not None and node.shelf is not None and not self.has_failed:
                again = self.ledger.export_page(node.shelf, node.info.start, node.info.end)
                in_cells = self.ledger.entries_of(again)
                stored = self.ledger.entries_of(node.image.data)
                assert texts(in_cells) == texts(stored)
                assert self.disk or in_cells == stored

    def teardown(self):
        if not hasattr(self, "rig"):
            return
        self.ledger.fails_next = False
        for sequence in self.sequences:
            sequence.output.num_unread = 0
        try:
            self.settle()
            assert not any(each.group.live for each in self.sequences)
            for tenant in TENANTS:
                self.rig.kv.store.drop_all(root_key("", tenant))
            self.rig.carry_out_moves()
            assert self.ledger.faults({}) == []
            assert self.rig.kv.cells.num_used == 0
        finally:
            self.ledger.forget_all(NUM_SEATS + NUM_SHELF_IDS + 1)

    def settle(self):
        for _ in range(50):
            self.rig.run()
            self.check()
            if self.disk is None or not self.disk.num_orders:
                break
            self.disk.write_some()
            self.disk.read_some()
        self.rig.run()


def texts(entries):
    return {at: (entry.token, entry.digest) for at, entry in entries.items()}


@pytest.fixture
def run_machine(make_rig, make_disk, make_ledger, loaded):
    def run(number, num_runs, num_steps, **fields):
        made = type(
            "Machine",
            (LlamaMachine,),
            {
                "make_rig": staticmethod(make_rig),
                "make_disk": staticmethod(make_disk),
                "make_ledger": staticmethod(make_ledger),
                "loaded": loaded,
                "num_steps": 0,
            },
        )
        run_state_machine_as_test(
            seed(number)(made),
            settings=settings(
                max_examples=num_runs,
                stateful_step_count=num_steps,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                **fields,
            ),
        )
        return made.num_steps

    return run


def test_nothing_that_happens_to_pages_changes_a_byte_of_memory(run_machine):
    assert run_machine(1, num_runs=20, num_steps=30) > 100


def test_pages_that_leave_when_their_copy_is_made_leave_after_what_was_computed(run_machine):
    assert run_machine(901, num_runs=20, num_steps=60, phases=PHASES) > 100


@pytest.mark.soak
def test_nothing_does_for_long(run_machine):
    first = number = int(os.environ.get("CARAVAN_SOAK_SEED") or random.randrange(2**32))
    end = time.monotonic() + float(os.environ.get("CARAVAN_SOAK_S") or 120)
    num_steps = 0
    while time.monotonic() < end:
        print(f"CARAVAN_SOAK_SEED={number}", file=sys.stderr)
        num_steps += run_machine(number, num_runs=20, num_steps=60, phases=PHASES)
        number += 1
    print(f"{num_steps} steps of llama.cpp, {number - first} seeds", file=sys.stderr)
