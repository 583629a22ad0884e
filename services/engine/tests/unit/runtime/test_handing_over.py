"""Requests leave a worker with their pages, one after the other."""

from concurrent.futures import Future

import pytest

from caravan_engine.domain.errors import DrainingError
from caravan_engine.runtime.handing_over import HandingOver

TEXTS = [bytes([number]) * 3 + bytes(range(40)) for number in range(3)]
DEVICE = {"cells_cost_time": False, "num_shelf_ids": 4}


class Shelf:
    """Takes pages; says that they lie there when the test says so."""

    def __init__(self) -> None:
        self.left = []
        self.waiting = []

    def leave(self, request, images):
        self.left.append((request, list(images)))
        self.waiting.append(Future())
        return self.waiting[-1]

    def done(self):
        self.waiting.pop(0).set_result(None)


@pytest.fixture
def shelf():
    return Shelf()


def begin(rig, shelf):
    return HandingOver(rig.scheduler, rig.kv, shelf.leave, rig.carry_out_moves, patience_s=0)


def advance(rig, handing_over, steps=1):
    for _ in range(steps):
        if not handing_over.advance(rig.clock()):
            return


def finish(rig, shelf, handing_over):
    for _ in range(100):
        if not handing_over.advance(rig.clock()):
            return handing_over.done.result(timeout=0)
        while shelf.waiting:
            shelf.done()
    raise AssertionError("it never ends")


def running(rig, texts=TEXTS, **fields):
    sequences = [rig.submit(text, max_output=60, **fields) for text in texts]
    while not all(each.num_generated_tokens > 20 for each in sequences):
        rig.step()
    return sequences


@pytest.mark.parametrize("kv", [{}, DEVICE, {"can_cut": False}], ids=["host", "device", "whole"])
def test_another_worker_goes_on_from_all_that_was_computed(make_rig, shelf, kv):
    rig = make_rig(kv=kv, can_share=kv.get("can_cut", True))
    sequences = running(rig)
    assert finish(rig, shelf, begin(rig, shelf)) == 3

    other = make_rig(kv=kv, can_share=kv.get("can_cut", True))
    for _, images in shelf.left:
        other.kv.store.take_in(images)
    for sequence in sequences:
        [error] = sequence.output.errors
        assert isinstance(error, DrainingError)
        text = bytes(sequence.tokens)
        resumed = other.submit(text, max_output=4)
        other.complete(resumed)
        assert resumed.group.cached_tokens == len(text) - 1
    assert rig.kv.cells.num_computing == 0
    rig.check_integrity()


def test_each_ends_when_its_pages_are_there_and_then_the_next_one_leaves(make_rig, shelf):
    rig = make_rig()
    first, second, third = running(rig)
    handing_over = begin(rig, shelf)
    for _ in range(3):
        assert handing_over.advance(rig.clock())
    assert [request for request, _ in shelf.left] == [first.request]
    assert not first.output.errors
    shelf.done()
    for _ in range(3):
        assert handing_over.advance(rig.clock())
    assert first.output.errors
    assert [request for request, _ in shelf.left] == [first.request, second.request]
    assert not second.output.errors
    assert third.seat is not None
    assert finish(rig, shelf, handing_over) == 3


def test_who_ends_meanwhile_is_not_counted_and_holds_nobody_up(make_rig, shelf):
    rig = make_rig()
    first, second = running(rig, TEXTS[:2])
    handing_over = begin(rig, shelf)
    advance(rig, handing_over)
    rig.scheduler.cancel(first.group, rig.clock())
    assert finish(rig, shelf, handing_over) == 1
    assert second.output.errors


def test_a_tenant_whose_pages_were_dropped_leaves_nothing(make_rig, shelf):
    rig = make_rig()
    running(rig, TEXTS[:1])
    rig.kv.drop("default")
    assert finish(rig, shelf, begin(rig, shelf)) == 1
    assert [images for _, images in shelf.left] == [[]]


def test_who_has_nothing_in_memory_ends_at_once(make_rig, shelf):
    rig = make_rig(num_seats=1)
    (first,) = running(rig, TEXTS[:1])
    waiting = rig.submit(b"waiting")
    handing_over = begin(rig, shelf)
    handing_over.advance(rig.clock())
    assert waiting.output.errors
    assert finish(rig, shelf, handing_over) == 2
    assert [request for request, _ in shelf.left] == [first.request]


def test_parked_requests_leave_too_and_first(make_rig, shelf):
    rig = make_rig(num_seats=1)
    (parked,) = running(rig, TEXTS[:1], priority=1)
    (urgent,) = running(rig, TEXTS[1:2], priority=100)
    assert parked.group.is_parked
    assert finish(rig, shelf, begin(rig, shelf)) == 2
    assert [request for request, _ in shelf.left] == [parked.request, urgent.request]
    for sequence, (_, images) in zip((parked, urgent), shelf.left, strict=True):
        assert sum(len(each.info.tokens) for each in images) == len(sequence.tokens) - 1


def test_choices_leave_what_they_share_once(make_rig, shelf):
    rig = make_rig()
    group = rig.submit_group(TEXTS[0], max_output=40, choice_count=2)
    while group.sequences[1].num_generated_tokens < 10:
        rig.step()
    assert finish(rig, shelf, begin(rig, shelf)) == 1
    [(_, images)] = shelf.left
    keys = [each.info.key for each in images]
    assert len(keys) == len(set(keys))
    assert sum(each.info.start == 0 for each in images) == 1


def test_without_host_memory_it_is_computed_again(make_rig, shelf):
    rig = make_rig(kv={"host_budget_bytes": 0})
    running(rig, TEXTS[:1])
    assert finish(rig, shelf, begin(rig, shelf)) == 1
    assert [images for _, images in shelf.left] == [[]]


def test_images_without_the_page_before_them_are_of_no_use(make_rig, shelf):
    rig = make_rig()
    running(rig, TEXTS[:1])
    finish(rig, shelf, begin(rig, shelf))
    [(_, images)] = shelf.left
    other = make_rig()
    other.kv.store.take_in(images[1:])
    assert other.kv.store.num_pages == 0
    tight = make_rig(kv={"host_budget_bytes": 10})
    tight.kv.store.take_in(images)
    assert tight.kv.store.num_pages == 0


def test_those_that_are_ended_otherwise_are_not_counted_twice(make_rig, shelf):
    rig = make_rig()
    running(rig)
    handing_over = begin(rig, shelf)
    advance(rig, handing_over, 2)
    assert rig.scheduler.end_all(DrainingError(), rig.clock()) == 3
    assert rig.scheduler.is_idle
    assert finish(rig, shelf, handing_over) == 0


def test_where_nothing_runs_it_is_done_at_once(make_rig, shelf):
    rig = make_rig()
    handing_over = begin(rig, shelf)
    assert not handing_over.advance(rig.clock())
    assert handing_over.done.result(timeout=0) == 0
