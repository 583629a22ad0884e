"""A journal gives back what was written whole, and nothing else, whatever happens to the file."""

import os
import stat
from itertools import pairwise
from pathlib import Path

import pytest

from caravan_engine.domain.recovery.records import (
    ChoiceFinished,
    ComputationBegan,
    RequestBegan,
    RequestEnded,
    TokensLeft,
)
from caravan_engine.storage.journal import JournalFile
from caravan_engine.storage.journal_records import HEADER_BYTES

DIGEST, MOST_BYTES = "digest", 1 << 20
RECORDED = [
    RequestBegan(1, b"a request, and whose it is", 1_700_000_000_000),
    ComputationBegan(1, 12),
    TokensLeft(1, 0, 0, (500, 7, 31_999)),
    RequestBegan(2, b"", -5),
    TokensLeft(1, 3, 0, (1,), 4.75),
    ChoiceFinished(1, 3),
    RequestEnded(2),
    TokensLeft(1, 0, 3, ()),
]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def open_journal(folder):
    opened = []

    def make(digest=DIGEST):
        opened.append(JournalFile.open(folder, digest))
        return opened[-1]

    yield make
    for journal in opened:
        journal.close()


def file_of(folder):
    [path] = Path(folder).glob("*.journal")
    return path


def recorded(open_journal, *batches):
    """Writes batches, the first as the beginning, and returns how long the file was after each."""
    journal = open_journal()
    first, *others = batches
    journal.rewrite(iter(first))
    ends = [journal.num_bytes]
    for batch in others:
        journal.append(batch)
        ends.append(journal.num_bytes)
    journal.close()
    return ends


def found(open_journal, digest=DIGEST):
    journal = open_journal(digest)
    try:
        return list(journal.read(MOST_BYTES))
    finally:
        journal.close()


def test_what_was_recorded_is_found(open_journal):
    recorded(open_journal, RECORDED[:2], RECORDED[2:5], [], RECORDED[5:])
    assert found(open_journal) == RECORDED


def test_nothing_is_found_where_nothing_was_written(open_journal):
    assert found(open_journal) == []


def test_torn_at_any_byte_it_gives_back_exactly_what_was_whole(open_journal, folder):
    ends = recorded(open_journal, [], *([record] for record in RECORDED))
    path, content = file_of(folder), file_of(folder).read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        num_whole = max(0, sum(end <= length for end in ends) - 1)
        assert found(open_journal) == RECORDED[:num_whole], length


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_with_any_byte_changed_it_gives_back_what_was_before(open_journal, folder, change):
    ends = recorded(open_journal, [], *([record] for record in RECORDED))
    path, content = file_of(folder), file_of(folder).read_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= change
        path.write_bytes(damaged)
        num_before = max(0, sum(end <= at for end in ends) - 1)
        assert found(open_journal) == RECORDED[:num_before], at


def test_zeros_or_rubbish_after_the_end_are_cut(open_journal, folder):
    recorded(open_journal, RECORDED)
    path, content = file_of(folder), file_of(folder).read_bytes()
    for tail in (bytes(4096), b"\xff" * 100, content, content[HEADER_BYTES:], content[:50]):
        path.write_bytes(content + tail)
        assert found(open_journal) == RECORDED


def test_records_that_are_doubled_or_in_another_order_are_no_records(open_journal, folder):
    ends = recorded(open_journal, [], *([record] for record in RECORDED))
    path, content = file_of(folder), file_of(folder).read_bytes()
    header = content[:HEADER_BYTES]
    frames = [content[start:end] for start, end in pairwise(ends)]
    for at in range(len(frames)):
        path.write_bytes(header + b"".join([*frames[: at + 1], *frames[at:]]))
        assert found(open_journal) == RECORDED[: at + 1]
        path.write_bytes(header + b"".join([*frames[:at], *frames[at + 1 :]]))
        assert found(open_journal) == RECORDED[:at]


def test_what_an_earlier_file_held_is_not_taken_for_records_of_this_one(open_journal, folder):
    recorded(open_journal, RECORDED)
    earlier = file_of(folder).read_bytes()
    recorded(open_journal, RECORDED[:1])
    path, content = file_of(folder), file_of(folder).read_bytes()
    path.write_bytes(content + earlier[len(content) :])
    assert found(open_journal) == RECORDED[:1]


def test_the_journal_of_another_model_is_left_alone(open_journal, folder):
    recorded(open_journal, RECORDED)
    mine = file_of(folder)
    assert found(open_journal, "other digest") == []
    other = JournalFile.open(folder, "other digest")
    other.rewrite(iter([]))
    other.close()
    [theirs] = set(folder.glob("*.journal")) - {mine}
    theirs.write_bytes(mine.read_bytes())
    assert found(open_journal, "other digest") == []
    assert found(open_journal) == RECORDED


def test_one_that_is_too_large_is_not_read(open_journal):
    recorded(open_journal, RECORDED)
    assert list(open_journal().read(100)) == []


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_file_of_ours_is_neither_read_nor_followed(open_journal, folder, kind):
    recorded(open_journal, RECORDED)
    path = file_of(folder)
    target = folder / "elsewhere"
    path.rename(target)
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(target)
    content = target.read_bytes()
    journal = open_journal()
    try:
        assert list(journal.read(MOST_BYTES)) == []
    except OSError:
        assert kind in ("link", "folder")
    if kind != "folder":
        journal.rewrite(iter(RECORDED[:1]))
        assert list(journal.read(MOST_BYTES)) == RECORDED[:1]
    assert target.read_bytes() == content


def test_only_the_owner_can_read_it(open_journal, folder):
    recorded(open_journal, RECORDED)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_two_processes_cannot_write_it(open_journal):
    open_journal()
    with pytest.raises(BlockingIOError):
        open_journal()


def test_what_a_shorter_journal_replaces_is_zeroed(open_journal, folder):
    recorded(open_journal, RECORDED)
    with file_of(folder).open("rb") as old:
        recorded(open_journal, [])
        assert not any(old.read())
    assert found(open_journal) == []


def test_what_is_discarded_is_zeroed_and_gone(open_journal, folder):
    journal = open_journal()
    journal.rewrite(iter(RECORDED))
    with file_of(folder).open("rb") as old:
        journal.discard()
        assert not any(old.read())
    assert not list(folder.glob("*.journal"))
    journal.discard()
    journal.rewrite(iter(RECORDED[:1]))
    assert list(journal.read(MOST_BYTES)) == RECORDED[:1]
