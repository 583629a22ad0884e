import json

import pytest

from report import Bound, Figure, Measured, Report, Target, judge, ratios, table, write_json
from runs import Run


def run(tokens_per_s=1.0, ttft_p50_s=1.0, num_completed=2, tokens_by_call=(4, 4), wall_s=1.0):
    return Run(
        tokens_per_s=tokens_per_s,
        ttft_p50_s=ttft_p50_s,
        ttft_p95_s=ttft_p50_s,
        longest_gap_s=0.5,
        wall_s=wall_s,
        num_calls=2,
        num_completed=num_completed,
        tokens_by_call=list(tokens_by_call),
        failures={},
    )


def measured(source, *runs, noisy=()):
    return Measured("w", source, list(runs), list(noisy))


def target(figure, bound, value, versus="theirs"):
    return Target(figure=figure, bound=bound, value=value, source="ours", versus=versus)


def test_ratios_are_taken_round_by_round():
    ours = measured("ours", run(10.0), run(30.0), run(20.0))
    theirs = measured("theirs", run(10.0), run(10.0), run(40.0))

    assert ratios(ours, theirs, "tokens_per_s") == [1.0, 3.0, 0.5]


def test_rounds_in_which_the_peer_has_nothing_have_no_ratio():
    ours = measured("ours", run(10.0, 2.0), run(10.0, 3.0))
    theirs = measured("theirs", run(0.0, None), run(5.0, 1.0))

    assert ratios(ours, theirs, "tokens_per_s") == [2.0]
    assert ratios(ours, theirs, "ttft_p50_s") == [3.0]


def test_a_ratio_is_judged_by_the_median_of_the_rounds():
    both = [
        measured("ours", run(9.0), run(10.0), run(20.0)),
        measured("theirs", run(10.0), run(10.0), run(10.0)),
    ]

    assert judge(target("tokens_per_s", Bound.AT_LEAST, 1.0), both).is_reached
    verdict = judge(target("tokens_per_s", Bound.AT_LEAST, 1.01), both)
    assert (verdict.measured, verdict.is_reached) == (1.0, False)


def test_a_figure_by_itself_is_judged_by_its_worst_round():
    rounds = [measured("ours", run(num_completed=2), run(num_completed=1))]

    verdict = judge(target("num_completed", Bound.AT_LEAST, 2, versus=None), rounds)

    assert (verdict.measured, verdict.is_reached) == (1, False)


def test_what_can_not_be_compared_is_not_reached():
    both = [measured("ours", run()), measured("theirs", run(ttft_p50_s=None))]

    verdict = judge(target("ttft_p50_s", Bound.AT_MOST, 9.0), both)

    assert (verdict.measured, verdict.is_reached) == (None, False)


@pytest.mark.parametrize(
    ("bound", "value", "is_reached"),
    [(Bound.AT_MOST, 3.0, True), (Bound.AT_MOST, 2.9, False), (Bound.AT_LEAST, 3.0, True)],
)
def test_a_single_figure_knows_whether_its_target_is_reached(bound, value, is_reached):
    assert Figure("f", 3.0, "ms", bound, value).is_reached is is_reached


def test_the_table_shows_failures_cut_answers_noise_and_missed_targets():
    report = Report("a machine", versus={"w": "theirs"}, failures={"other": "too slow"})
    report.measured = [
        measured("ours", run(20.0), noisy=[1]),
        measured("theirs", run(10.0, None, num_completed=0, tokens_by_call=(0, 3))),
    ]
    report.verdicts = [judge(target("tokens_per_s", Bound.AT_LEAST, 4.0), report.measured)]
    report.figures = [Figure("weight", 5.0, "MiB")]

    lines = table(report).splitlines()

    assert "| w | ours | 20.0 | 2.000 | 1.00 | none | 1.00 | 0.50 | 1.0 | 2 of 2 | 4 | 1 |" in lines
    assert any("| 0 of 2 | 0 to 3 | none |" in line for line in lines)
    assert "| w | tok/s >= 4 x theirs | 2.000 | NO |" in lines
    assert "| weight | 5 MiB |  |  |" in lines
    assert lines[-1] == "FAILED other: too slow"


def test_json_holds_every_run(tmp_path):
    report = Report("a machine", versus={"w": "ours"}, measured=[measured("ours", run(), run())])

    write_json(tmp_path / "new" / "bench.json", report)

    document = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert [each["wall_s"] for each in document["measured"][0]["runs"]] == [1.0, 1.0]
