"""A journal says what survives, and goes on whatever the disk does."""

import errno
import os
import shutil
import threading

import pytest

from caravan_engine.domain.recovery.live_requests import LiveRequests
from caravan_engine.runtime.request_journal import JournalLimits, RequestJournal
from caravan_engine.storage.journal import JournalFile
from caravan_testkit.clock import FakeClock
from caravan_testkit.waiting import wait_until

MOST_BYTES = 1 << 20
LONG_S = 3600.0


class Medium:
    """A disk that fails when the test says so."""

    def __init__(self):
        self.records, self.num_rewrites, self.num_appends = [], 0, 0
        self.num_bytes = 0
        self.fails = False
        self.closed = threading.Event()

    def rewrite(self, records):
        self._check()
        self.records, self.num_rewrites = list(records), self.num_rewrites + 1
        self.num_bytes = 50 * len(self.records)

    def append(self, records):
        self._check()
        self.records += records
        self.num_appends += 1
        self.num_bytes += 50 * len(records)

    def discard(self):
        self.records, self.num_bytes = [], 0

    def close(self):
        self.closed.set()

    def _check(self):
        if self.fails:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def medium():
    return Medium()


@pytest.fixture
def make_journal(clock, medium):
    def make(kept=(), on=None, **limits):
        journal = RequestJournal(
            on or medium, JournalLimits(**limits), kept, clock=clock, wall_ms=lambda: 5
        )
        journal.commit()
        return journal

    return make


def account(requests):
    """What is known of requests, for comparison."""
    return [record for request in requests for record in request.records()]


def live_after(records):
    live = LiveRequests()
    for record in records:
        live.apply(record)
    return account(live)


def test_what_was_reported_is_what_is_written(make_journal, medium):
    journal = make_journal()
    entry, other = journal.begin(b"one"), journal.begin(b"two")
    entry.computing(3)
    entry.left(0, 0, [1, 2], None)
    journal.commit()
    entry.left(0, 2, [3], 1.5)
    entry.finished(0)
    other.computing(0)
    journal.commit()
    assert live_after(medium.records) == account(journal.live())
    assert [each.num_tokens for each in journal.live()] == [3, 0]
    assert (medium.num_rewrites, medium.num_appends) == (1, 2)


def test_a_request_that_ends_before_it_is_written_never_is(make_journal, medium):
    journal = make_journal()
    entry = journal.begin(b"secret")
    entry.computing(0)
    entry.ended()
    entry.left(0, 0, [1], None)
    entry.ended()
    journal.commit()
    assert (medium.records, medium.num_appends) == ([], 0)


def test_nothing_is_written_where_nothing_happens(make_journal, medium):
    journal = make_journal()
    journal.begin(b"one")
    for _ in range(3):
        journal.commit()
    assert (medium.num_rewrites, medium.num_appends) == (1, 1)


def test_when_the_last_request_ends_nothing_of_any_is_left(make_journal, medium):
    journal = make_journal()
    entries = [journal.begin(b"one"), journal.begin(b"two")]
    journal.commit()
    entries[0].ended()
    journal.commit()
    assert medium.records
    entries[1].ended()
    journal.commit()
    assert medium.records == []


def test_what_ended_leaves_the_file_soon_also_while_others_run(make_journal, medium, clock):
    journal = make_journal()
    ended, running = journal.begin(b"ended"), journal.begin(b"running")
    journal.commit()
    ended.ended()
    journal.commit()
    clock.advance(11)
    journal.commit()
    assert [record.request for record in medium.records] == [b"running"]
    running.ended()


def test_a_file_that_grows_is_shortened(make_journal, medium):
    journal = make_journal(max_bytes=20_000)
    entry = journal.begin(b"one")
    for number in range(1000):
        entry.left(0, number, [number], None)
        journal.commit()
        assert medium.num_bytes <= 20_000
    assert medium.num_rewrites > 2
    assert live_after(medium.records) == account(journal.live())


def test_a_request_for_which_there_is_no_room_is_not_in_it(make_journal):
    journal = make_journal(max_bytes=20_000)
    assert journal.begin(bytes(10_000)) is None
    entry = journal.begin(bytes(5_000))
    assert journal.stats().num_left_out == 1
    entry.left(0, 0, range(2000), None)  # now it has become too large
    assert (journal.live(), journal.stats().num_left_out) == ([], 2)
    assert journal.begin(bytes(5_000)) is not None


def test_a_disk_that_takes_nothing_is_given_up_and_tried_again_later(make_journal, medium, clock):
    journal = make_journal()
    entry = journal.begin(b"one")
    journal.commit()
    medium.fails = True
    entry.left(0, 0, [1], None)
    journal.commit()
    assert medium.records == []
    assert (journal.stats().is_writing, journal.stats().num_failures) == (False, 1)
    entry.left(0, 1, [2], None)
    journal.begin(b"two")
    medium.fails = False
    clock.advance(11)
    journal.commit()
    assert live_after(medium.records) == account(journal.live())
    assert len(journal.live()) == 2
    assert (journal.stats().is_writing, journal.stats().num_failures) == (True, 1)


def test_a_disk_that_is_too_slow_costs_no_memory_without_end(make_journal, medium):
    journal = make_journal()
    entry = journal.begin(b"one")
    journal.commit()
    for number in range(100_000):
        entry.left(0, number, [number], None)
    journal.commit()
    assert (medium.num_rewrites, medium.num_appends) == (2, 1)
    assert live_after(medium.records) == account(journal.live())


def test_requests_of_an_earlier_run_are_kept_until_they_end(make_journal, medium):
    first = make_journal()
    first.begin(b"one").left(0, 0, [1], None)
    first.begin(b"two")
    second = make_journal(kept=first.live())
    assert live_after(medium.records) == account(first.live())
    third = second.begin(b"three")
    assert [each.began.request for each in second.live()] == [b"one", b"two", b"three"]
    third.ended()


@pytest.mark.parametrize("step_s", [-LONG_S, LONG_S])
def test_steps_of_the_wall_clock_change_nothing(medium, clock, step_s):
    times = iter([10**12, 10**12 + int(1000 * step_s)] * 10)
    journal = RequestJournal(medium, JournalLimits(), clock=clock, wall_ms=lambda: next(times))
    journal.commit()
    entries = [journal.begin(b"one"), journal.begin(b"two"), journal.begin(b"three")]
    journal.commit()
    entries[0].ended()
    journal.commit()
    assert len(medium.records) == 4
    clock.advance(11)
    journal.commit()
    assert [record.request for record in medium.records] == [b"two", b"three"]


# ── on a real file ──


def live_after_each_commit(journal, clock):
    """Lets requests come and go; yields what is live when it was committed."""

    def commit():
        journal.commit()
        return account(journal.live())

    first, second = journal.begin(b"first request"), journal.begin(b"second request")
    yield commit()
    first.computing(4)
    first.left(0, 0, [1, 2, 3], None)
    yield commit()
    second.left(1, 0, [9], 0.5)
    first.left(0, 3, [4], None)
    clock.advance(11)
    yield commit()
    second.ended()
    third = journal.begin(b"third request")
    yield commit()
    clock.advance(11)
    third.computing(0)
    yield commit()
    first.finished(0)
    clock.advance(11)
    yield commit()
    first.ended()
    third.ended()
    yield commit()


def found_by_the_next_worker(folder, tmp_path):
    """What is in the file at this moment, as if the process were killed."""
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    journal = JournalFile.open(copy, "digest")
    try:
        return live_after(journal.read(MOST_BYTES))
    finally:
        journal.close()


def run_on_a_disk(tmp_path, monkeypatch, clock, fails):
    """`fails` says by number which writes find no room; returns how many writes and hits."""
    folder = tmp_path / "journal"
    shutil.rmtree(folder, ignore_errors=True)
    really_write, num_writes = os.write, 0

    def write(descriptor, data):
        nonlocal num_writes
        num_writes += 1
        if not fails(num_writes):
            return really_write(descriptor, data)
        if len(data) > 1 and not fails(num_writes - 1):
            return really_write(descriptor, data[: len(data) // 2])  # the next one fails
        raise OSError(errno.ENOSPC, "No space left on device")

    file = JournalFile.open(folder, "digest")
    journal = RequestJournal(file, JournalLimits(), clock=clock)
    num_kept = 0
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            journal.commit()
            for live in live_after_each_commit(journal, clock):
                with monkeypatch.context() as undone:
                    undone.setattr(os, "write", really_write)
                    found = found_by_the_next_worker(folder, tmp_path)
                assert found == (live if journal.stats().is_writing else [])
                num_kept += found == live
    finally:
        file.close()
    return num_writes, num_kept


def test_the_next_worker_finds_what_was_committed(tmp_path, monkeypatch, clock):
    num_writes, num_kept = run_on_a_disk(tmp_path, monkeypatch, clock, lambda _number: False)
    assert num_writes > 7
    assert num_kept == 7


@pytest.mark.parametrize("how", ["once", "twice", "for good"])
def test_a_full_disk_at_any_write_leaves_nothing_wrong(tmp_path, monkeypatch, clock, how):
    num_writes, _ = run_on_a_disk(tmp_path, monkeypatch, clock, lambda _number: False)
    for first in range(1, num_writes + 1):
        last = {"once": first + 1, "twice": first + 2, "for good": 10**6}[how]
        _, num_kept = run_on_a_disk(
            tmp_path, monkeypatch, clock, lambda number, a=first, b=last: a <= number <= b
        )
        assert how == "for good" or num_kept >= 4


@pytest.mark.parametrize("name", ["fsync", "fdatasync"])
def test_a_disk_that_does_not_confirm_is_given_up(tmp_path, monkeypatch, clock, name):
    def fail(_descriptor):
        raise OSError(errno.EIO, "Input/output error")

    folder = tmp_path / "journal"
    file = JournalFile.open(folder, "digest")
    journal = RequestJournal(file, JournalLimits(), clock=clock)
    journal.commit()
    monkeypatch.setattr(os, name, fail)
    entries = [journal.begin(b"one"), journal.begin(b"two")]
    for commits in ("fdatasync", "fsync"):
        journal.commit()
        if commits == name:
            assert not journal.stats().is_writing
            assert found_by_the_next_worker(folder, tmp_path) == []
        entries.pop().ended()
        clock.advance(11)
    file.close()


def test_new_requests_are_not_gathered(medium):
    journal = RequestJournal(medium, JournalLimits(commit_interval_s=LONG_S))
    journal.start()
    journal.begin(b"one")
    wait_until(lambda: len(medium.records) == 1, timeout_s=20, what="a request on the disk")
    journal.close()


def test_the_thread_writes_by_itself_and_leaves_what_is_live(medium):
    journal = RequestJournal(medium, JournalLimits(commit_interval_s=0.001))
    journal.start()
    entry, other = journal.begin(b"one"), journal.begin(b"two")
    wait_until(lambda: len(medium.records) == 2, timeout_s=20, what="two requests on the disk")
    entry.ended()
    journal.close()
    assert medium.closed.is_set()
    assert [record.request for record in medium.records] == [b"two"]
    other.ended()
