"""What goes wrong with pages costs computing them again, and nobody anything else."""

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.paging.moves import Import
from caravan_engine.domain.paging.page_image import root_key

PREFIX = bytes(range(40))
DISK = {"host_budget_bytes": 24 * 48}


def test_a_damaged_page_is_dropped_and_computed_again(make_rig):
    rig = make_rig()
    rig.complete(rig.submit(PREFIX, max_output=2))
    for node in list(rig.kv.store.tree):
        if node.image:
            node.image.data[3] ^= 1
    again = rig.submit(PREFIX + b"!", max_output=4)
    other = rig.submit(b"somebody else", max_output=4)
    rig.complete(again, other)
    assert rig.kv.store.num_damaged == 1
    assert rig.moves(Import)


def test_a_page_that_finds_no_cells_is_computed_again(make_rig):
    rig = make_rig(FakeBackend(refuses=lambda _image: True))
    rig.complete(rig.submit(PREFIX, max_output=2))
    again = rig.submit(PREFIX + b"!", max_output=4)
    rig.complete(again)
    assert rig.moves(Import)


def on_disk(make_rig, make_disk, length=48):
    """A text of whole pages that lie on disk and nowhere else."""
    disk = make_disk()
    rig = make_rig(disk=disk, kv=DISK)
    text = bytes(range(length))
    rig.complete(rig.submit(text + b"?", max_output=1))
    rig.kv.store.resize(host_bytes=0, disk_bytes=None)
    disk.write_some()
    rig.step()
    rig.kv.store.resize(host_bytes=24 * 1000, disk_bytes=None)
    assert rig.kv.store.num_on_disk == rig.kv.store.num_pages > 0
    return rig, disk, text


def test_who_waits_for_pages_goes_on_when_the_first_of_them_is_lost(make_rig, make_disk):
    rig, disk, text = on_disk(make_rig, make_disk)
    waiting = rig.submit(text + b"!", max_output=2)
    rig.step()
    first = next(iter(rig.kv.store.tree))
    disk.lose(first.info.key)
    disk.read_some()
    rig.complete(waiting)
    assert waiting.group.cached_tokens == 0


def test_who_waits_for_pages_goes_on_when_they_are_dropped(make_rig, make_disk):
    rig, disk, text = on_disk(make_rig, make_disk)
    waiting = rig.submit(text + b"!", max_output=2)
    rig.step()
    rig.kv.store.drop_all(root_key("", "default"))
    disk.read_some()
    rig.complete(waiting)
    assert waiting.group.cached_tokens == 0


def test_a_dropped_page_whose_writing_could_not_be_stopped_is_forgotten(make_rig, make_disk):
    disk = make_disk()
    rig = make_rig(disk=disk, kv=DISK)
    rig.complete(rig.submit(bytes(range(16)) + b"?", max_output=1))
    rig.kv.store.resize(host_bytes=0, disk_bytes=None)
    node = next(iter(rig.kv.store.tree))
    node.is_being_written = False  # an answer to an earlier order came late
    rig.kv.store.drop(node)
    disk.write_some()
    rig.kv.hear()
    assert not disk.pages


def test_what_led_to_unusable_logits_is_kept_for_nobody(make_rig):
    rig = make_rig(FakeBackend(fill=lambda _history: float("nan")))
    broken = rig.submit(PREFIX, max_output=4)
    rig.run()
    assert [each.reason for each in broken.output.errors] == ["DECODE_FAILED"]
    assert rig.kv.store.num_pages == 0


def test_who_shares_a_beginning_that_could_not_be_restored_computes_it_too(make_rig):
    rig = make_rig()
    rig.complete(rig.submit(PREFIX, max_output=2))
    for node in rig.kv.store.tree:
        node.image.data[3] ^= 1
    both = [rig.submit(PREFIX + ending, max_output=4) for ending in (b"one", b"two")]
    rig.complete(*both)


def test_a_part_is_not_kept_where_the_page_before_it_has_no_room(make_rig):
    rig = make_rig(kv={"host_budget_bytes": 24 * 12})
    rig.complete(rig.submit(bytes(range(20)), max_output=1))  # 16 and 4
    rig.carry_out_moves()
    assert rig.kv.store.num_pages == 0
