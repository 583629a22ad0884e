import pytest

from caravan_telemetry.domain.errors import StoreUnavailableError
from caravan_telemetry.domain.usage_intake import IntakeResult, UsageIntake

DAY_MS = 86_400_000
NOW_MS = 1_000 * DAY_MS


@pytest.fixture
def intake(memory_store, meter) -> UsageIntake:
    return UsageIntake(memory_store, meter, now_ms=lambda: NOW_MS)


def test_new_records_are_stored_and_counted(intake, memory_store, meter, make_record):
    result = intake.take([make_record("a"), make_record("b")])

    assert result == IntakeResult(stored_count=2, duplicate_count=0)
    assert set(memory_store.records) == {"a", "b"}
    assert sorted(meter.stored_ids) == ["a", "b"]
    assert meter.repeated_count == 0


def test_a_batch_that_comes_again_changes_nothing(intake, meter, make_record):
    batch = [make_record("a"), make_record("b")]
    intake.take(batch)

    assert intake.take(batch) == IntakeResult(stored_count=0, duplicate_count=2)
    assert len(meter.stored_ids) == 2
    assert meter.repeated_count == 2


def test_of_two_records_with_one_id_in_a_batch_the_first_counts(intake, memory_store, make_record):
    result = intake.take([make_record("a", output_tokens=1), make_record("a", output_tokens=2)])

    assert result == IntakeResult(stored_count=1, duplicate_count=1)
    assert memory_store.records["a"][0].output_tokens == 1


@pytest.mark.parametrize(
    ("standing", "coming", "kept"),
    [
        ((5, True), (9, False), 9),  # the gateway's word counts
        ((9, True), (5, False), 5),  # also where it says less
        ((5, True), (9, True), 9),  # another worker had it for longer
        ((9, True), (5, True), 9),
        ((5, False), (9, True), 5),
        ((5, False), (9, False), 5),
    ],
)
@pytest.mark.parametrize("in_one_batch", [True, False])
def test_a_provisional_record_stands_until_a_better_one_comes(
    intake, memory_store, meter, make_record, standing, coming, kept, in_one_batch
):
    batch = [
        make_record("a", output_tokens=tokens, is_provisional=is_provisional)
        for tokens, is_provisional in (standing, coming)
    ]
    results = [intake.take(batch)] if in_one_batch else [intake.take([each]) for each in batch]
    assert memory_store.records["a"][0].output_tokens == kept
    assert meter.stored_ids == ["a"]
    is_replaced = kept == coming[0] and not in_one_batch
    assert meter.replacements == ([("a", standing[0], kept)] if is_replaced else [])
    assert sum(each.stored_count for each in results) == 1 + is_replaced


def test_what_was_not_stored_is_not_counted(intake, memory_store, meter, make_record):
    memory_store.is_full = True
    with pytest.raises(StoreUnavailableError):
        intake.take([make_record("a")])
    assert meter.stored_ids == []


def test_records_over_their_age_are_removed(intake, memory_store, meter, make_record):
    memory_store.add([make_record("old")], NOW_MS - 8 * DAY_MS)
    memory_store.add([make_record("young")], NOW_MS - 6 * DAY_MS)

    assert intake.remove_expired(retention_days=7, limit=10) == 1
    assert set(memory_store.records) == {"young"}
    assert meter.removed_count == 1


def test_no_more_than_the_limit_is_removed_at_once(intake, memory_store, make_record):
    memory_store.add([make_record(str(n)) for n in range(5)], 0)
    assert intake.remove_expired(retention_days=1, limit=3) == 3
    assert intake.remove_expired(retention_days=1, limit=3) == 2


def test_zero_days_keep_records_for_ever(intake, memory_store, make_record):
    memory_store.add([make_record("old")], 0)
    assert intake.remove_expired(retention_days=0, limit=10) == 0
    assert set(memory_store.records) == {"old"}
