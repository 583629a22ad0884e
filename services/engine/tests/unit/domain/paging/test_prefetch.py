"""What is read from disk before it is needed, and in which order."""

import pytest

PAGE = 16
DISK = {"host_budget_bytes": 24 * 48}


@pytest.fixture
def make_world(make_rig, make_disk):
    """Makes a rig with texts of two pages each, 0 to 5, that lie on disk and nowhere else."""

    def make(**limits):
        disk = make_disk()
        rig = make_rig(disk=disk, kv=DISK, num_seats=1, **limits)
        for number in range(6):
            rig.complete(rig.submit(text(number) + b"?", max_output=1))
        rig.kv.resize(host_bytes=0, disk_bytes=None)
        disk.write_some()
        rig.step()
        rig.kv.resize(host_bytes=24 * 1000, disk_bytes=None)
        disk.read_orders.clear()
        return rig, disk

    return make


def text(number):
    return bytes([number] * 2 * PAGE)


def texts_of(disk, rig):
    """Whose pages were asked for, the most urgent first, and those of equal priority in order."""
    tokens = {node.info.key: node.tokens[0] for node in rig.kv.store.tree}
    orders = sorted(disk.read_orders, key=lambda order: -order[1])
    return list(dict.fromkeys(tokens[key] for key, _ in orders))


def occupy(rig):
    """Has the only seat taken by a request of the highest priority."""
    busy = rig.submit(b"busy", max_output=60, priority=100)
    rig.step()
    return busy


def test_pages_of_those_who_wait_are_read_before_they_have_a_seat(make_world):
    rig, disk = make_world()
    busy = occupy(rig)
    waiting = rig.submit(text(0) + b"!", max_output=2)
    rig.step()
    assert texts_of(disk, rig) == [0]
    disk.read_some()
    rig.step()
    assert waiting.seat is None
    num_orders = len(disk.read_orders)
    rig.scheduler.cancel(busy.group, rig.clock())
    rig.complete(waiting)  # the disk does nothing more
    assert waiting.group.cached_tokens == 2 * PAGE
    assert len(disk.read_orders) == num_orders == 2


@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_so_many_of_those_who_wait_are_looked_at(make_world, lookahead):
    rig, disk = make_world(prefetch_lookahead=lookahead)
    occupy(rig)
    for number in range(5):
        rig.submit(text(number) + b"!", max_output=2)
    for _ in range(4):
        rig.step()
    assert texts_of(disk, rig) == list(range(lookahead))


def test_who_comes_next_is_read_first_whenever_it_came(make_world):
    rig, disk = make_world(prefetch_lookahead=2)
    occupy(rig)
    for number, priority in enumerate([1, 10, 10, 50]):
        rig.submit(text(number) + b"!", max_output=2, priority=priority)
    rig.step()
    assert texts_of(disk, rig) == [3, 1]
    first, *_, last = (priority for _, priority in disk.read_orders)
    assert first > last  # however many threads read


def test_who_has_a_seat_comes_before_all_who_wait(make_world):
    rig, disk = make_world()
    for number in range(3):
        rig.submit(text(number) + b"!", max_output=2)
    rig.step()
    assert texts_of(disk, rig) == [0, 1, 2]


def test_a_smaller_budget_on_disk_loses_pages_and_no_text(make_world):
    rig, disk = make_world()
    rig.kv.resize(host_bytes=None, disk_bytes=24 * PAGE)
    assert len(disk.pages) == 1
    again = [rig.submit(text(number) + b"!", max_output=2) for number in range(6)]
    for _ in range(200):
        rig.step()
        disk.read_some()
    rig.complete(*again)
    assert sum(each.group.cached_tokens for each in again) <= PAGE


def test_a_page_that_is_dropped_while_it_is_read_is_zeroed(make_world):
    rig, disk = make_world()
    rig.submit(text(0) + b"!", max_output=2)
    rig.step()
    images = disk.read_some()
    assert rig.kv.drop("default") > 0
    rig.step()
    assert [bytes(image.data) for image in images] == [bytes(24 * PAGE)] * 2
