import sys
from pathlib import Path

import pytest

from caravan_gateway.domain.generation import GenerationSpec
from caravan_gateway.domain.inference_call import InferenceCall
from caravan_gateway.domain.inference_spec import TextInput
from caravan_gateway.domain.models import Endpoint
from caravan_gateway.domain.principal import Identity
from caravan_gateway.domain.usage import Outcome
from caravan_gateway.runtime.inference_pipeline import InferencePipeline
from caravan_gateway.runtime.live_calls import LiveCalls

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode doesn't

METHOD = "caravan.inference.v1.InferenceService/Generate"


@pytest.fixture
def make_spec():
    def make(**changes):
        return GenerationSpec(**{"model": "tiny", "input": TextInput(5), **changes})

    return make


@pytest.fixture
def make_identity():
    def make(**changes):
        values = {
            "tenant": "default",
            "principal": "alice",
            "key_id": "k1",
            "priority_cap": 50,
            "expire_time_s": None,
            "policy_version": 1,
        }
        return Identity(**{**values, **changes})

    return make


@pytest.fixture
def make_endpoint():
    def make(worker_id="w1", **changes):
        values = {
            "model": "tiny",
            "model_digest": "d1",
            "replica_index": 0,
            "worker_id": worker_id,
            "address": "127.0.0.1:1",
        }
        return Endpoint(**{**values, **changes})

    return make


@pytest.fixture
def make_call(make_spec):
    """Calls that note with what they were ended from outside."""

    def make(spec=None, *, authorization="Bearer cvn_good", time_left=lambda: None):
        ended = []
        call = InferenceCall(
            method=METHOD,
            request_id="r1",
            authorization=authorization,
            spec=spec or make_spec(),
            request=object(),
            time_left=time_left,
            end=ended.append,
            start_s=1_000.0,
            start_time_s=2_000_000_000.0,
        )
        return call, ended

    return make


@pytest.fixture
def live_calls(fake_clock):
    return LiveCalls(max_calls=2, reader_stall_s=5.0, clock=fake_clock)


@pytest.fixture
def make_pipeline(live_calls, fake_clock):
    def name_of(error):
        return Outcome(1, type(error).__name__)

    def make(*stages, outcome_of=name_of):
        return InferencePipeline(stages, live_calls, outcome_of=outcome_of, clock=fake_clock)

    return make
