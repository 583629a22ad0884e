import math
from dataclasses import replace

import pytest

from caravan_obskit.worker_numbers import Distribution, Measure
from caravan_telemetry.domain.errors import InvalidFieldsError
from caravan_telemetry.domain.worker_report import HostReport, check_report


def violated(host_id, *workers) -> list[str]:
    with pytest.raises(InvalidFieldsError) as caught:
        check_report(HostReport(host_id, workers))
    return [violation.field for violation in caught.value.field_violations]


def test_a_host_without_workers_is_welcome():
    check_report(HostReport("host", ()))


def test_a_good_report_passes(make_worker):
    check_report(HostReport("host", (make_worker("w1"), make_worker("w2"))))


@pytest.mark.parametrize("host_id", ["", "x" * 257])
def test_a_host_needs_a_name(host_id):
    assert violated(host_id) == ["host_id"]


def test_worker_ids_are_distinct(make_worker):
    assert violated("host", make_worker("w1"), make_worker("w1")) == ["workers"]


def test_workers_are_bounded(make_worker):
    assert violated("host", *[make_worker(f"w{n}") for n in range(257)]) == ["workers"]


def test_a_worker_needs_an_id_and_a_model(make_worker):
    fields = violated("host", make_worker("w0"), make_worker("", ""))
    assert fields == ["workers[1].worker_id", "workers[1].model"]


def test_devices_are_bounded(make_worker):
    many = make_worker(device_bytes={str(n): 1 for n in range(65)})
    assert violated("host", many) == ["workers[0].devices"]
    assert violated("host", make_worker(device_bytes={"x" * 257: 1})) == ["workers[0].devices"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_what_would_spoil_the_sums_is_refused(make_worker, value):
    worker = make_worker()
    faster = replace(worker.gauges, output_tokens_per_second=value)
    fields = violated("host", replace(worker, gauges=faster))
    assert fields == ["workers[0].output_tokens_per_second"]

    measure = Measure.PREFILL_SECONDS
    seen = replace(Distribution.empty(measure), total=value)
    distributions = {**worker.counters.distributions, measure: seen}
    counters = replace(worker.counters, distributions=distributions)
    assert violated("host", replace(worker, counters=counters)) == ["workers[0].histograms"]
