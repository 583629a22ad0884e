"""What every adapter of `RequestStore` does."""

import pytest

from caravan_telemetry.domain.request_record import TokenCounts
from caravan_telemetry.storage.database import Database
from caravan_telemetry.storage.request_records import SqlRequestStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    if request.param == "memory":
        yield request.getfixturevalue("memory_store")
        return
    database = Database(tmp_path / "telemetry.db")
    yield SqlRequestStore(database)
    database.close()


def test_new_records_are_stored(store, make_record):
    assert set(store.add([make_record("a"), make_record("b")], 1)) == {"a", "b"}


def test_what_is_stored_already_is_not_stored_again(store, make_record):
    store.add([make_record("a")], 1)
    assert set(store.add([make_record("a"), make_record("b")], 2)) == {"b"}
    assert set(store.add([make_record("a"), make_record("b")], 3)) == set()


def test_provisional_records_are_told_of_and_replaced(store, make_record):
    batch = [make_record("a", is_provisional=True, output_tokens=3), make_record("b")]
    store.add(batch, 1)
    assert store.provisional({"a", "b", "c"}) == {"a": TokenCounts(10, 4, 3)}
    better = [make_record("a", output_tokens=7), make_record("b")]
    assert set(store.add(better, 2, replaced={"a"})) == {"a"}
    assert store.provisional({"a", "b"}) == {}


def test_no_records_are_no_trouble(store):
    assert set(store.add([], 1)) == set()


def test_a_full_batch_fits(store, make_record):
    batch = [make_record(f"r{n}") for n in range(500)]
    assert len(store.add(batch, 1)) == 500
    assert len(store.add(batch, 2)) == 0


def test_the_oldest_go_first_and_no_more_than_asked(store, make_record):
    for time_ms in (30, 10, 20, 40):
        store.add([make_record(f"at-{time_ms}")], time_ms)

    assert store.remove_received_before(40, limit=2) == 2
    assert set(store.add([make_record("at-10"), make_record("at-20")], 50)) == {"at-10", "at-20"}
    assert set(store.add([make_record("at-30"), make_record("at-40")], 50)) == set()


def test_nothing_old_removes_nothing(store, make_record):
    store.add([make_record("a")], 10)
    assert store.remove_received_before(10, limit=5) == 0
    assert store.remove_received_before(11, limit=5) == 1


def test_awkward_texts_and_the_largest_numbers_are_kept(store, make_record):
    record = make_record(
        "'; DROP TABLE request_records; --",
        principal="naïve 😀 \x00",
        input_tokens=2**32 - 1,
        priority=2**32 - 1,
        labels={'"': "\\"},
        time_to_first_token_ms=None,
    )
    assert len(store.add([record], 1)) == 1
    assert len(store.add([record], 1)) == 0
