"""Who is parked when cells run out."""

from caravan_engine.backends.fake import FakeBackend


def test_a_lower_priority_is_parked_however_much_it_has_in_the_cells(make_rig):
    rig = make_rig(FakeBackend(num_cells=96), num_seats=3, context_tokens=90)
    low = rig.submit(b"l" * 50, max_output=36, priority=1)
    rig.step()
    high = rig.submit(b"h" * 16, max_output=36, priority=10)
    rig.complete(low, high)
    assert (low.group.num_parkings > 0, high.group.num_parkings) == (True, 0)


def test_of_equals_the_one_with_the_least_in_the_cells_is_parked(make_rig):
    rig = make_rig(FakeBackend(num_cells=96), num_seats=3, context_tokens=90)
    small = rig.submit(b"s" * 16, max_output=36)
    rig.step()
    large = rig.submit(b"l" * 50, max_output=36)
    rig.complete(small, large)
    assert (small.group.num_parkings > 0, large.group.num_parkings) == (True, 0)


def test_what_is_shared_with_others_costs_nothing_to_park(make_rig):
    rig = make_rig(FakeBackend(num_cells=120), num_seats=3, context_tokens=110)
    alone = rig.submit(b"a" * 30, max_output=40)
    sharing = [rig.submit(bytes(range(48)) + ending, max_output=40) for ending in (b"1", b"2")]
    while not rig.observer.num_parkings:
        rig.step()
    assert alone.group.num_parkings == 0
    rig.complete(alone, *sharing)
