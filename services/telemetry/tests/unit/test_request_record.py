import math

import pytest

from caravan_rpckit.errors import Reason
from caravan_telemetry.domain.errors import InvalidFieldsError
from caravan_telemetry.domain.request_record import MAX_BATCH_RECORDS, check_batch


def violated(records) -> list[str]:
    with pytest.raises(InvalidFieldsError) as caught:
        check_batch(records)
    assert caught.value.reason is Reason.INVALID_FIELD
    return [violation.field for violation in caught.value.field_violations]


def test_a_full_batch_of_good_records_passes(make_record):
    check_batch([make_record(f"r{n}") for n in range(MAX_BATCH_RECORDS)])


def test_an_empty_batch_passes():
    check_batch([])


def test_a_call_that_failed_before_it_had_a_model_or_a_caller_passes(make_record):
    check_batch(
        [
            make_record(
                tenant="",
                principal="",
                key_id="",
                model="",
                model_digest="",
                status_code=16,
                error_reason="INVALID_CREDENTIAL",
                finish_reasons=(),
                time_to_first_token_ms=None,
                labels={},
            )
        ]
    )


def test_one_record_too_many_is_refused(make_record):
    records = [make_record(f"r{n}") for n in range(MAX_BATCH_RECORDS + 1)]
    assert violated(records) == ["records"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "x" * 257),
        ("request_id", ""),
        ("method", ""),
        ("principal", "x" * 257),
        ("model", "x" * 257),
        ("status_code", 17),
        ("start_time_ms", 0),
        ("start_time_ms", -5),
        ("start_time_ms", 2**62),
        ("duration_ms", -0.5),
        ("duration_ms", math.nan),
        ("queue_ms", math.inf),
        ("time_to_first_token_ms", -1.0),
        ("finish_reasons", ("length",) * 129),
        ("finish_reasons", ("x" * 257,)),
        ("labels", {str(n): "" for n in range(17)}),
        ("labels", {"": "value"}),
        ("labels", {"ä" * 32: "value"}),
        ("labels", {"key": "ä" * 128}),
    ],
)
def test_a_faulty_field_is_named_with_the_position_of_its_record(make_record, field, value):
    faulty = make_record(value) if field == "id" else make_record("r1", **{field: value})
    name = "start_time" if field == "start_time_ms" else field
    assert violated([make_record("r0"), faulty]) == [f"records[1].{name}"]


def test_all_faults_are_named_at_once_and_no_value_is_repeated(make_record):
    records = [
        make_record("r0", method="", status_code=99),
        make_record("r1", method="", labels={"": "secret"}),
    ]
    with pytest.raises(InvalidFieldsError) as caught:
        check_batch(records)
    assert len(caught.value.field_violations) == 4
    assert "secret" not in str(caught.value)


def test_many_faults_stay_short_enough_for_trailing_metadata(make_record):
    with pytest.raises(InvalidFieldsError) as caught:
        check_batch([make_record(f"r{n}", method="") for n in range(MAX_BATCH_RECORDS)])
    error = caught.value
    assert 10 < len(error.field_violations) < MAX_BATCH_RECORDS
    assert len(error.message) + sum(len(str(v)) for v in error.field_violations) < 6_000
