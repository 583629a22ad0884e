import pytest

from caravan_telemetry.domain.errors import StoreUnavailableError, TraceNotFoundError
from caravan_telemetry.domain.trace_archive import TraceArchive

HOUR_MS = 3_600_000


class Counts:
    def __init__(self):
        self.num_stored = 0
        self.removals = {"age": 0, "count": 0}

    def stored(self, count):
        self.num_stored += count

    def removed(self, count, cause):
        self.removals[cause] += count


@pytest.fixture
def counts():
    return Counts()


@pytest.fixture
def make_archive(span_store, counts, fake_clock):
    def make(max_spans=100, retention_h=1):
        return TraceArchive(
            span_store,
            counts,
            max_spans=max_spans,
            retention_h=retention_h,
            now_ms=lambda: int(fake_clock() * 1000),
        )

    return make


def test_a_stored_call_is_found_and_no_other(make_archive, make_span, counts):
    archive = make_archive()
    archive.take([make_span("a", request_id="r"), make_span("b", parent="a", start_ns=2)])
    assert [span.name for span in archive.find("r").spans] == ["a", "b"]
    assert counts.num_stored == 2
    with pytest.raises(TraceNotFoundError):
        archive.find("other")


def test_spans_that_come_again_count_once(make_archive, make_span, counts, span_store):
    archive = make_archive()
    for _ in range(2):
        archive.take([make_span("a")])
    assert counts.num_stored == span_store.count() == 1


def test_above_the_bound_the_oldest_go(make_archive, make_span, counts, span_store, fake_clock):
    archive = make_archive(max_spans=100)
    for number in range(130):
        archive.take([make_span(f"s{number}", request_id=f"r{number}")])
        fake_clock.advance(1)
    assert span_store.count() <= 100
    assert span_store.count() + counts.removals["count"] == 130
    assert archive.find("r129").spans
    with pytest.raises(TraceNotFoundError):
        archive.find("r0")


def test_the_bound_holds_after_a_restart(make_archive, make_span, span_store):
    make_archive(max_spans=100).take([make_span(f"s{n}") for n in range(100)])
    make_archive(max_spans=100).take([make_span("new", request_id="r")])
    assert span_store.count() <= 100


def test_age_counts_from_arrival(make_archive, make_span, counts, fake_clock):
    archive = make_archive(retention_h=1)
    archive.take([make_span("old", request_id="old")])
    fake_clock.advance(3_600 + 1)
    archive.take([make_span("new", request_id="new")])
    assert archive.remove_expired(limit=10) == 1
    assert counts.removals["age"] == 1
    assert archive.find("new").spans
    with pytest.raises(TraceNotFoundError):
        archive.find("old")


def test_without_a_limit_of_age_nothing_expires(make_archive, make_span, fake_clock):
    archive = make_archive(retention_h=0)
    archive.take([make_span("a")])
    fake_clock.advance(10**6)
    assert archive.remove_expired(limit=10) == 0


def test_nothing_is_kept_where_nothing_may_be(make_archive, make_span, span_store):
    make_archive(max_spans=0).take([make_span("a")])
    assert span_store.count() == 0


def test_a_full_disk_is_passed_on_and_changes_no_count(make_archive, make_span, span_store, counts):
    archive = make_archive()
    span_store.is_full = True
    with pytest.raises(StoreUnavailableError):
        archive.take([make_span("a")])
    assert counts.num_stored == 0
