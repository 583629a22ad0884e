import pytest

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.inference.v1 import generation_pb2 as pb
from caravan_engine.domain.errors import EmptyInputError, InvalidFieldError
from caravan_engine.domain.events import (
    Completed,
    Delta,
    Finished,
    FinishReason,
    Started,
    Timings,
    TokenLogprob,
    TokenLogprobs,
)
from caravan_engine.domain.request import ClientKey, Continuation, Emitted
from caravan_engine.domain.sampling.options import (
    DryOptions,
    MirostatOptions,
    SamplingOptions,
    XtcOptions,
)
from caravan_engine.rpc.convert import (
    Identity,
    generation_of,
    messages_of,
    sampling_of,
    seed_of,
    to_response,
)

IDENTITY = Identity(model="tiny", model_digest="d" * 64, request_id="req", seed=9)


def generation(request=None, **fields):
    run = worker_pb.RunRequest(request=request or pb.GenerateRequest(), **fields)
    return generation_of(run, prompt=(1,), seed=3, request_id="req", deadline=None)


def test_unset_sampling_fields_keep_their_defaults():
    assert sampling_of(pb.SamplingOptions()) == SamplingOptions()


def test_fields_set_to_zero_are_not_defaults():
    options = sampling_of(pb.SamplingOptions(temperature=0, top_k=0, min_p=0, penalty_last_n=0))

    zeros = (options.temperature, options.top_k, options.min_p, options.penalty_last_n)
    assert zeros == (0, 0, 0, 0)


def test_every_sampling_field_arrives():
    values = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.25,
        "min_p": 0.125,
        "repeat_penalty": 1.5,
        "frequency_penalty": -0.5,
        "presence_penalty": 0.75,
        "penalty_last_n": 12,
        "logit_bias": {5: -2.0},
        "typical_p": 0.5,
    }
    nested = {
        "dry": {
            "multiplier": 0.5,
            "base": 1.5,
            "allowed_length": 0,
            "penalty_last_n": 7,
            "sequence_breakers": ("a", "b"),
        },
        "xtc": {"probability": 0.5, "threshold": 0.25},
        "mirostat": {"tau": 3.0, "eta": 0.5},
    }
    assert {each.name for each in pb.SamplingOptions.DESCRIPTOR.fields} == {*values, *nested}
    for name, fields in nested.items():
        message = pb.SamplingOptions.DESCRIPTOR.fields_by_name[name].message_type
        assert {each.name for each in message.fields} == set(fields)

    assert sampling_of(pb.SamplingOptions(**values, **nested)) == SamplingOptions(
        **values,
        dry=DryOptions(**nested["dry"]),
        xtc=XtcOptions(**nested["xtc"]),
        mirostat=MirostatOptions(**nested["mirostat"]),
    )


def test_samplers_that_are_merely_named_have_the_documented_defaults():
    options = sampling_of(
        pb.SamplingOptions(
            dry=pb.DryOptions(multiplier=1), xtc=pb.XtcOptions(), mirostat=pb.MirostatOptions()
        )
    )

    assert options.dry == DryOptions(multiplier=1)
    assert options.dry.sequence_breakers == ("\n", ":", '"', "*")
    assert (options.xtc, options.mirostat) == (XtcOptions(), MirostatOptions())
    assert not options.has_xtc


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 5.5])
def test_sampling_out_of_bounds_names_the_field(value):
    with pytest.raises(InvalidFieldError) as refused:
        sampling_of(pb.SamplingOptions(temperature=value))

    assert refused.value.field_violations[0].field == "sampling.temperature"


def test_an_unset_request_has_the_documented_defaults():
    request = generation()

    assert (request.max_output_tokens, request.priority, request.ignore_eos) == (256, 10, False)


def test_the_capped_priority_counts_not_the_wanted_one():
    wanted = pb.GenerateRequest(priority=90)

    assert generation(wanted).priority == 90
    assert generation(wanted, caller=worker_pb.Caller(priority=0)).priority == 0


def test_a_request_belongs_to_the_principal_that_the_gateway_names():
    caller = worker_pb.Caller(tenant="acme", principal="alice")
    assert generation(caller=caller).client == ClientKey("acme", "alice")
    assert generation().client == ClientKey()


@pytest.mark.parametrize("count", [0, 17])
def test_a_number_of_choices_out_of_bounds_is_refused(count):
    with pytest.raises(InvalidFieldError, match="choice_count"):
        generation(pb.GenerateRequest(choice_count=count))


def test_there_is_one_choice_unless_asked_for_more():
    assert generation().choice_count == 1
    assert generation(pb.GenerateRequest(choice_count=3)).choice_count == 3


def test_a_request_that_names_a_session_is_of_a_conversation():
    assert generation(pb.GenerateRequest(session_id="s-1")).is_of_session
    assert not generation().is_of_session


def test_zero_output_tokens_are_refused():
    with pytest.raises(InvalidFieldError, match="max_output_tokens"):
        generation(pb.GenerateRequest(max_output_tokens=0))


def test_an_empty_prompt_is_refused():
    with pytest.raises(EmptyInputError):
        generation_of(worker_pb.RunRequest(), prompt=(), seed=0, request_id="r", deadline=None)


def test_a_seed_of_zero_is_a_seed_and_an_unset_one_is_drawn():
    assert seed_of(pb.GenerateRequest(seed=0)) == 0
    assert seed_of(pb.GenerateRequest()) != seed_of(pb.GenerateRequest())


def test_every_role_has_its_name_and_others_are_refused_by_path():
    roles = [role for role in pb.ChatRole.values() if role != pb.CHAT_ROLE_UNSPECIFIED]
    chat = pb.Chat(messages=[pb.ChatMessage(role=role, content="x") for role in roles])
    assert [each.role for each in messages_of(chat)] == ["system", "user", "assistant", "tool"]

    chat.messages.add(role=pb.CHAT_ROLE_UNSPECIFIED)
    chat.messages.add(role=99)
    with pytest.raises(InvalidFieldError) as refused:
        messages_of(chat)
    fields = [violation.field for violation in refused.value.field_violations]
    assert fields == ["chat.messages[4].role", "chat.messages[5].role"]


def test_started_says_what_the_generation_runs_on():
    response = to_response(Started(input_tokens=5, cached_tokens=2), IDENTITY)

    assert response.event.started == pb.Started(
        request_id="req",
        model="tiny",
        model_digest="d" * 64,
        seed=9,
        input_tokens=5,
        cached_tokens=2,
    )


def test_a_delta_keeps_its_offset():
    response = to_response(Delta(0, "ab", (4, 5), 7), IDENTITY)

    assert response.event.delta == pb.Delta(text="ab", token_ids=[4, 5], token_offset=7)


def test_the_mu_of_mirostat_stands_beside_its_delta():
    assert to_response(Delta(0, "b", (5,), 0, (), 0.0), IDENTITY).mirostat_mu == 0.0
    assert not to_response(Delta(0, "b", (5,), 0), IDENTITY).HasField("mirostat_mu")


def test_a_continuation_arrives_choice_by_choice():
    assert generation().continuation is None
    wire = worker_pb.Continuation(
        choices=[
            worker_pb.ChoiceContinuation(token_ids=[4, 5], mirostat_mu=0.0),
            worker_pb.ChoiceContinuation(token_ids=[6], finished=True),
        ],
        cached_tokens=3,
    )
    request = generation(pb.GenerateRequest(choice_count=2), continuation=wire)
    emitted = (Emitted((4, 5), mirostat_mu=0.0), Emitted((6,), is_finished=True))
    assert request.continuation == Continuation(emitted, cached_tokens=3)


def test_log_probabilities_arrive_one_for_each_token():
    logprobs = TokenLogprobs(-0.5, (TokenLogprob(4, "a", -0.25), TokenLogprob(5, "b", -0.5)))
    response = to_response(Delta(0, "b", (5,), 0, (logprobs,)), IDENTITY)

    (sent,) = response.event.delta.logprobs
    assert (sent.logprob, sent.top[0]) == (
        -0.5,
        pb.TokenLogprob(token_id=4, text="a", logprob=-0.25),
    )
    assert [each.token_id for each in sent.top] == [4, 5]


def test_log_probabilities_are_wanted_only_where_asked_for():
    assert generation().num_top_logprobs is None
    assert generation(pb.GenerateRequest(logprobs=pb.LogprobOptions())).num_top_logprobs == 0
    wanted = pb.GenerateRequest(logprobs=pb.LogprobOptions(top_count=5))
    assert generation(wanted).num_top_logprobs == 5
    with pytest.raises(InvalidFieldError, match=r"logprobs\.top_count"):
        generation(pb.GenerateRequest(logprobs=pb.LogprobOptions(top_count=21)))


@pytest.mark.parametrize("reason", FinishReason)
def test_every_reason_to_finish_has_its_value(reason):
    finished = to_response(Finished(0, reason, None, 3), IDENTITY).event.finished

    assert pb.FinishReason.Name(finished.finish_reason) == f"FINISH_REASON_{reason.name}"
    assert not finished.HasField("stop_string")


def test_a_stop_string_is_told():
    finished = to_response(Finished(0, FinishReason.STOP_STRING, "END", 3), IDENTITY).event.finished

    assert finished.stop_string == "END"


def test_completed_has_usage_and_timings_in_milliseconds():
    response = to_response(Completed(5, 2, 3, Timings(0.001, 0.02, 0.3)), IDENTITY)

    assert response.event.completed.usage == pb.Usage(
        input_tokens=5, cached_tokens=2, output_tokens=3
    )
    timings = response.timings
    assert (timings.queue_ms, timings.prefill_ms, timings.decode_ms) == (1.0, 20.0, 300.0)
