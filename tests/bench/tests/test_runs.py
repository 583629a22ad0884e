import pytest

from runs import CallRecord, percentile, summary


def record(*arrivals, started=0.0, wanted=None, is_watched=True, error=None):
    wanted = len(arrivals) if wanted is None else wanted
    return CallRecord(started, wanted, is_watched, list(arrivals), len(arrivals), error)


def test_time_to_first_token_counts_from_the_call_and_not_from_the_start_of_the_run():
    run = summary([record(12.5, 13.0, started=10.0)], num_calls=1, wall_s=13.0)

    assert run.ttft_p50_s == pytest.approx(2.5)


def test_the_longest_gap_is_within_one_call_and_only_of_watched_ones():
    calls = [record(1.0, 2.0, 5.0), record(9.0, 9.5), record(1.0, 8.0, is_watched=False)]

    assert summary(calls, num_calls=3, wall_s=10.0).longest_gap_s == pytest.approx(3.0)


def test_calls_that_failed_were_cut_or_never_made_are_not_complete():
    calls = [
        record(1.0, 2.0),
        record(1.0, wanted=2),
        record(wanted=2, error="no room"),
        record(1.0, wanted=2, error="no room"),
    ]

    run = summary(calls, num_calls=5, wall_s=2.0)

    assert (run.num_completed, run.num_calls) == (1, 5)
    assert run.failures == {"no room": 2}
    assert (run.least_tokens, run.most_tokens) == (0, 2)
    assert run.tokens_per_s == pytest.approx(2.0)


def test_without_any_token_there_is_no_time_to_the_first_one():
    run = summary([record(wanted=2, error="no room")], num_calls=1, wall_s=1.0)

    assert run.ttft_p50_s is None
    assert run.ttft_p95_s is None
    assert run.longest_gap_s == 0.0


@pytest.mark.parametrize(
    ("count", "percent", "expected"), [(36, 95, 35), (20, 95, 19), (9, 95, 9), (1, 50, 1)]
)
def test_a_percentile_is_the_nearest_rank(count, percent, expected):
    assert percentile(list(range(count, 0, -1)), percent) == expected
