from types import SimpleNamespace

import pytest

from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.paging.moves import Release
from caravan_engine.domain.request import EmbeddingRequest, GenerationRequest
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sequence import RequestTimes
from caravan_engine.domain.step import Chunk, StepPlan, StepResult
from caravan_engine.runtime.stats import BOUNDS, Distribution, EngineStats, Gauges

GENERATION = GenerationRequest(
    request_id="r", prompt=(1, 2, 3, 4, 5), sampling=SamplingOptions(temperature=0), seed=0
)


def group(*, arrived, started, request=GENERATION, cached_tokens=2):
    sequence = SimpleNamespace(first_token_at=None, last_token_at=None, num_generated_tokens=0)
    sequence.group = SimpleNamespace(
        times=RequestTimes(arrived, started),
        request=request,
        num_prompt_tokens=5,
        cached_tokens=cached_tokens,
        sequences=[sequence],
    )
    return sequence.group


def totals(snapshot):
    return {
        kind: pytest.approx(each.total)
        for kind, each in snapshot.histograms.items()
        if sum(each.counts)
    }


def test_a_whole_life_is_measured():
    stats = EngineStats(num_seats=2, num_cells=10)
    life = group(arrived=10.0, started=12.0)
    (sequence,) = life.sequences
    stats.started(life, 12.0)
    stats.generated(sequence, 15.0)
    sequence.first_token_at = sequence.last_token_at = life.times.first_token = 15.0
    stats.generated(sequence, 15.5)
    sequence.last_token_at, sequence.num_generated_tokens = 15.5, 2
    stats.ended(life, "length", 15.5)
    snapshot = stats.snapshot(waiting={10: 2, 50: 1}, now=16.0)
    assert totals(snapshot) == {
        Distribution.QUEUE_S: 2.0,
        Distribution.TIME_TO_FIRST_TOKEN_S: 5.0,
        Distribution.INTER_TOKEN_LATENCY_S: 0.5,
        Distribution.END_TO_END_S: 5.5,
        Distribution.REQUEST_LATENCY_MS: 5500.0,
        Distribution.INFERENCE_S: 3.5,
        Distribution.PREFILL_S: 3.0,
        Distribution.DECODE_S: 0.5,
        Distribution.TIME_PER_OUTPUT_TOKEN_S: 0.5,
    }
    assert (snapshot.input_tokens, snapshot.output_tokens) == (5, 2)
    assert snapshot.outcomes == {"length": 1}
    assert snapshot.num_waiting == 3


def test_an_end_in_the_queue_has_no_computation_to_measure():
    stats = EngineStats(num_seats=2, num_cells=10)
    stats.ended(group(arrived=1.0, started=None), "queue_timeout", 31.0)
    snapshot = stats.snapshot(waiting={}, now=31.0)
    assert totals(snapshot).keys() == {Distribution.END_TO_END_S, Distribution.REQUEST_LATENCY_MS}


def test_a_bucket_holds_its_upper_bound_and_the_last_one_everything_above():
    stats = EngineStats(num_seats=1, num_cells=1)
    for waited in (0.3, 0.31, 1e9):
        stats.started(group(arrived=0.0, started=waited), waited)
    counts = stats.snapshot(waiting={}, now=0).histograms[Distribution.QUEUE_S].counts
    assert len(counts) == len(BOUNDS[Distribution.QUEUE_S]) + 1
    assert (counts[0], counts[1], counts[-1]) == (1, 1, 1)


def test_the_rate_looks_at_the_last_ten_seconds():
    stats = EngineStats(num_seats=1, num_cells=1)
    plan = StepPlan(chunks=(Chunk(0, 0, (1,), None),))
    result = StepResult(plan, tokens={0: 1, 1: 1}, decode_s=0.25, sample_s=0.125)
    for second in range(100, 130):
        stats.stepped(result, 0.5, Gauges(num_running=2), second)
    snapshot = stats.snapshot(waiting={}, now=129.9)
    assert snapshot.output_tokens_per_s == pytest.approx(2.0)
    assert (snapshot.num_steps, snapshot.decode_s, snapshot.step_s) == (30, 7.5, 15.0)
    assert snapshot.gauges.num_running == 2
    assert stats.snapshot(waiting={}, now=200).output_tokens_per_s == 0


def test_a_step_that_only_moves_pages_or_fails_is_not_counted_among_those_that_computed():
    stats = EngineStats(num_seats=1, num_cells=1)
    moves_only = StepPlan((Release(0),))
    computing = StepPlan((Release(0),), (Chunk(0, 0, (1,), None),))
    results = [
        StepResult(moves_only),
        StepResult(computing, failure_code=-3),
        StepResult(computing),
    ]
    for result in results:
        stats.stepped(result, 0.5, Gauges(), 1.0)
    snapshot = stats.snapshot(waiting={}, now=2.0)
    assert (snapshot.num_steps, snapshot.step_s) == (1, 1.5)


def test_each_input_is_looked_up_once_however_often_its_request_is_parked():
    stats = EngineStats(num_seats=2, num_cells=10)
    life = group(arrived=0.0, started=1.0)
    stats.admitted(life, 1.0)
    stats.started(life, 1.0)
    for _ in range(3):
        stats.parked(life, 2.0)
    snapshot = stats.snapshot(waiting={}, now=3.0)
    assert (snapshot.prefix_query_tokens, snapshot.prefix_hit_tokens) == (5, 2)
    assert snapshot.num_parkings == 3


def test_never_more_is_found_than_was_looked_up():
    stats = EngineStats(num_seats=2, num_cells=10)
    stats.started(group(arrived=0.0, started=1.0, cached_tokens=9), 1.0)  # with an earlier answer
    assert stats.snapshot(waiting={}, now=3.0).prefix_hit_tokens == 5


def test_what_is_embedded_is_not_looked_up():
    stats = EngineStats(num_seats=2, num_cells=10)
    embedding = EmbeddingRequest(request_id="r", prompt=(1, 2, 3, 4, 5), pooling=Pooling.MEAN)
    stats.started(group(arrived=0.0, started=1.0, request=embedding, cached_tokens=0), 1.0)
    snapshot = stats.snapshot(waiting={}, now=3.0)
    assert (snapshot.input_tokens, snapshot.prefix_query_tokens) == (5, 0)
