"""Pages of those who run are on disk before anybody needs their memory."""

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.paging.moves import Export
from caravan_engine.domain.paging.page_image import page_key, root_key
from caravan_engine.domain.paging.pruning import prune
from caravan_engine.domain.request import ClientKey

TEXT = bytes(range(40))
SAVING = {"checkpoints": True}
DEVICE = {"cells_cost_time": False, "num_shelf_ids": 4}


def found_by_the_next_worker(make_rig, disk, kv=SAVING):
    """A worker that begins with what is on disk at this moment, and nothing else."""
    rig = make_rig(disk=disk, kv=kv)
    rig.kv.store.found_on_disk(image.info for image in disk.pages.values())
    return rig


def go_on(rig, disk, sequence, **fields):
    """Sends what a sequence has so far, as one who continues it does."""
    resumed = rig.submit(bytes(sequence.tokens), **fields)
    while resumed.group.live:
        rig.step()
        disk.read_some()
    return resumed


@pytest.mark.parametrize("kv", [{}, DEVICE], ids=["host", "device"])
def test_full_pages_of_a_running_sequence_are_written_as_they_fill(make_rig, make_disk, kv):
    disk = make_disk()
    rig = make_rig(disk=disk, kv={**SAVING, **kv})
    running = rig.submit(TEXT, max_output=60)
    while len(running.tokens) < 90:
        rig.step()
        disk.write_some()
    assert sorted(image.info.start for image in disk.pages.values()) == [0, 16, 32, 48, 64]

    later = found_by_the_next_worker(make_rig, disk, {**SAVING, **kv})
    resumed = go_on(later, disk, running, max_output=4)
    assert resumed.group.cached_tokens == 80
    later.check_integrity()


def test_nothing_is_written_early_without_checkpoints(make_rig, make_disk):
    disk = make_disk()
    rig = make_rig(disk=disk)
    running = rig.submit(TEXT, max_output=60)
    while len(running.tokens) < 90:
        rig.step()
    assert disk.num_orders == 0


def test_a_page_leaves_the_cells_once(make_rig, make_disk):
    rig = make_rig(disk=make_disk(), kv=SAVING)
    rig.complete(rig.submit(TEXT, max_output=60))
    starts = [move.info.start for move in rig.moves(Export)]
    assert sorted(starts) == [0, 16, 32, 48, 64, 80, 96]  # the last one at the end


def test_a_parked_sequence_is_written_to_its_end(make_rig, make_disk):
    disk = make_disk()
    rig = make_rig(disk=disk, num_seats=1, kv=SAVING)
    parked = rig.submit(TEXT, max_output=30, priority=1)
    for _ in range(6):
        rig.step()
    urgent = rig.submit(b"urgent", max_output=2, priority=100)
    while not urgent.tokens[6:]:
        rig.step()
    disk.write_some()
    num_known = len(parked.tokens) - 1  # the last token was never computed
    assert max(image.info.end for image in disk.pages.values()) == num_known

    later = found_by_the_next_worker(make_rig, disk)
    assert go_on(later, disk, parked, max_output=3).group.cached_tokens == num_known
    rig.complete(parked, urgent)


def test_a_page_that_did_not_get_to_the_disk_is_still_in_memory(make_rig, make_disk):
    disk = make_disk(budget_bytes=0)
    rig = make_rig(disk=disk, kv=SAVING)
    rig.complete(rig.submit(TEXT, max_output=2))
    disk.write_some()
    rig.step()
    again = rig.submit(TEXT, max_output=2)
    rig.complete(again)
    assert again.group.cached_tokens == 39


def test_an_image_that_must_make_room_while_it_is_written_is_not_written_twice(make_rig, make_disk):
    disk = make_disk()
    rig = make_rig(disk=disk, kv=SAVING)
    running = rig.submit(TEXT, max_output=30)
    for _ in range(4):
        rig.step()
    num_orders = disk.num_orders
    assert num_orders > 0
    rig.kv.store.resize(host_bytes=0, disk_bytes=None)
    assert disk.num_orders == num_orders
    disk.write_some()
    rig.step()
    assert rig.kv.store.num_on_disk == num_orders
    rig.complete(running)


def test_what_is_dropped_while_it_is_written_is_zeroed_and_not_written(make_rig, make_disk):
    disk = make_disk()
    rig = make_rig(disk=disk, kv=SAVING)
    client = ClientKey("acme")
    running = rig.submit(TEXT, max_output=20, client=client)
    while len(running.tokens) < 50:
        rig.step()
    node = rig.kv.store.tree.known_root(root_key("", "acme")).children[0]
    image = node.leaving
    rig.kv.store.resize(host_bytes=0, disk_bytes=None)  # only the writer has it now
    rig.kv.drop("acme")
    assert bytes(image.data) == bytes(len(image.data))
    disk.write_some()
    rig.complete(running)
    disk.write_some()
    rig.step()
    assert not disk.pages


def test_pages_of_a_sequence_whose_memory_became_doubtful_are_dropped(make_rig, make_disk):
    failing = []
    disk = make_disk()
    backend = FakeBackend(fails=lambda _step, _plan: -3 if failing else None)
    rig = make_rig(backend, disk=disk, kv=SAVING)
    running = rig.submit(TEXT, max_output=30)
    while len(running.tokens) < 50:
        rig.step()
        disk.write_some()
    assert disk.pages
    failing.append(True)
    while running.group.live:
        rig.step()
    rig.step()
    assert not disk.pages
    assert rig.kv.store.num_pages == 0


def test_another_text_that_shares_pages_keeps_them(make_rig, make_disk):
    disk = make_disk()
    rig = make_rig(disk=disk, kv=SAVING)
    first = rig.submit(TEXT, max_output=20)
    second = rig.submit(TEXT[:32] + b"another way", max_output=20)
    rig.complete(first, second)
    disk.write_some()
    rig.step()
    assert page_key(root_key("", "default"), tuple(TEXT[:16])) in disk.pages
    assert rig.kv.store.num_on_disk == len(disk.pages)


def test_pruning_leaves_what_running_and_parked_sequences_have(make_rig, make_disk):
    disk = make_disk()
    rig = make_rig(disk=disk, num_seats=1, kv=SAVING)
    rig.complete(rig.submit(b"an old text that nobody needs" * 2, max_output=2))
    disk.write_some()
    parked = rig.submit(TEXT, max_output=30, priority=1)
    for _ in range(8):
        rig.step()
    running = rig.submit(b"urgent business, quite long", max_output=20, priority=100)
    while len(running.tokens) < 36:
        rig.step()
    disk.write_some()
    rig.step()
    before = len(disk.pages)

    num_pruned = prune(rig.kv)

    assert num_pruned == before - len(disk.pages) > 0
    assert rig.kv.store.num_on_disk == len(disk.pages)
    kept = {image.info.tokens[:6] for image in disk.pages.values() if image.info.start == 0}
    assert kept == {tuple(TEXT[:6]), tuple(b"urgent")}
    rig.complete(parked, running)
    assert prune(rig.kv) > 0
    assert not disk.pages


def test_a_pruned_page_that_is_still_in_memory_is_found_there(make_rig, make_disk):
    disk = make_disk()
    rig = make_rig(disk=disk, kv=SAVING)
    rig.complete(rig.submit(TEXT, max_output=2))
    disk.write_some()
    rig.step()
    assert prune(rig.kv) == 2
    again = rig.submit(TEXT, max_output=2)
    rig.complete(again)
    assert again.group.cached_tokens == 39
