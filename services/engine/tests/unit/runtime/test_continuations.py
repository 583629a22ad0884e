"""A generation that another worker goes on with is the same generation."""

from dataclasses import replace

import pytest

from caravan_engine.backends.fake import VOCABULARY_SIZE, FakeBackend, scripted
from caravan_engine.domain.errors import InvalidFieldError, TokenOutOfRangeError
from caravan_engine.domain.events import Completed, Delta, Finished, FinishReason, Started
from caravan_engine.domain.request import Continuation, Emitted, GenerationRequest
from caravan_engine.domain.sampling.options import (
    DryOptions,
    MirostatOptions,
    SamplingOptions,
    XtcOptions,
)

TEXT = "a STO-é STOP"
SAMPLED = SamplingOptions(temperature=5.0, top_k=40)


def request(prompt=b"prompt", **fields):
    settings = {"sampling": SamplingOptions(temperature=0), "seed": 5, "max_output_tokens": 12}
    return GenerationRequest(prompt=tuple(prompt), request_id="r", **{**settings, **fields})


async def events_of(engine, asked):
    return [event async for event in engine.submit(asked)]


def continuation_of(events, num_choices):
    """What a gateway knows after `events`."""
    choices = [Emitted() for _ in range(num_choices)]
    for event in events:
        if isinstance(event, Delta):
            known = choices[event.choice_index]
            assert event.token_offset == len(known.tokens)
            choices[event.choice_index] = replace(
                known, tokens=known.tokens + event.token_ids, mirostat_mu=event.mirostat_mu
            )
        elif isinstance(event, Finished):
            choices[event.choice_index] = replace(choices[event.choice_index], is_finished=True)
    return Continuation(tuple(choices))


def whole(events):
    """What a client has in the end: texts, tokens, log-probabilities and ends of each choice."""
    choices = {}
    for event in events:
        if isinstance(event, Delta):
            text, tokens, logprobs, _ = choices.get(event.choice_index, ("", (), (), None))
            assert event.token_offset == len(tokens)
            choices[event.choice_index] = (
                text + event.text,
                tokens + event.token_ids,
                logprobs + event.logprobs,
                None,
            )
        elif isinstance(event, Finished):
            *rest, end = choices.get(event.choice_index, ("", (), (), None))
            assert end is None
            choices[event.choice_index] = (*rest, event)
    return choices


async def check_every_cut(make_engine, asked, make_backend=FakeBackend):
    undisturbed = await events_of(make_engine(make_backend()), asked)
    assert isinstance(undisturbed[-1], Completed)
    for cut in range(1, len(undisturbed)):
        before = undisturbed[:cut]
        continued = replace(asked, continuation=continuation_of(before, asked.choice_count))
        started, *after = await events_of(make_engine(make_backend()), continued)
        assert isinstance(started, Started)
        assert whole([*before, *after]) == whole(undisturbed)
        assert after[-1].output_tokens == undisturbed[-1].output_tokens
        assert after[-1].input_tokens == undisturbed[-1].input_tokens
    return undisturbed


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingOptions(temperature=0),
        SAMPLED,
        replace(SAMPLED, repeat_penalty=1.5, presence_penalty=1.0, penalty_last_n=5),
        replace(SAMPLED, dry=DryOptions(multiplier=3.0, allowed_length=1, penalty_last_n=6)),
        replace(SAMPLED, xtc=XtcOptions(probability=0.5)),
        replace(SAMPLED, mirostat=MirostatOptions(tau=2.0)),
    ],
    ids=["greedy", "drawn", "penalties", "dry", "xtc", "mirostat"],
)
async def test_it_may_be_cut_between_any_two_events(make_engine, sampling):
    await check_every_cut(make_engine, request(sampling=sampling, num_top_logprobs=1))


async def test_choices_go_on_each_from_where_it_was(make_engine):
    mirostat = replace(SAMPLED, mirostat=MirostatOptions(tau=2.0))
    await check_every_cut(make_engine, request(choice_count=3, sampling=mirostat))


@pytest.mark.parametrize("max_output_tokens", [5, 9, 99])
async def test_text_that_was_held_back_is_neither_lost_nor_repeated(make_engine, max_output_tokens):
    asked = request(b"hi", stop=("STOP",), max_output_tokens=max_output_tokens)

    def make_backend():
        return FakeBackend(next_token=scripted({b"hi": TEXT.encode()}))

    undisturbed = await check_every_cut(make_engine, asked, make_backend)
    text = "".join(event.text for event in undisturbed if isinstance(event, Delta))
    assert text == TEXT.encode()[:max_output_tokens].decode(errors="replace").replace("STOP", "")


async def test_mirostat_moves_its_mu_with_the_tokens_that_left(make_engine):
    sampling = SamplingOptions(temperature=1.0, mirostat=MirostatOptions())
    engine = make_engine(FakeBackend(next_token=scripted({b"hi": TEXT.encode()})))
    events = await events_of(engine, request(b"hi", sampling=sampling, stop=("STOP",)))
    mus = [event.mirostat_mu for event in events if isinstance(event, Delta)]
    assert len(set(mus)) == len(mus)
    assert None not in mus


async def test_usage_counts_input_and_output_once_and_keeps_what_was_said(make_engine):
    engine = make_engine()
    emitted = (Emitted((97, 98)), Emitted((99,), is_finished=True))
    continuation = Continuation(emitted, cached_tokens=4)
    events = await events_of(engine, request(choice_count=2, continuation=continuation))
    assert events[0] == Started(input_tokens=6, cached_tokens=4)
    assert {e.choice_index for e in events if isinstance(e, Delta | Finished)} == {0}
    completed = events[-1]
    assert (completed.input_tokens, completed.cached_tokens) == (6, 4)
    assert completed.output_tokens == 12 + 1
    assert engine.stats().output_tokens == 10


async def test_the_end_that_was_not_told_is_told_without_computing(make_engine):
    backend = FakeBackend()
    engine = make_engine(backend)
    emitted = (Emitted((97,) * 12), Emitted(tuple(b"one STOP")), Emitted((98,), is_finished=True))
    asked = request(choice_count=3, stop=("STOP",), continuation=Continuation(emitted))
    started, *ends, completed = await events_of(engine, asked)
    assert started == Started(6, 0)
    assert ends == [
        Finished(0, FinishReason.LENGTH, None, 12),
        Finished(1, FinishReason.STOP_STRING, "STOP", 8),
    ]
    assert completed.output_tokens == 21
    assert backend.plans == []
    assert engine.stats().num_waiting == 0


async def test_tokens_that_do_not_exist_are_refused(make_engine):
    engine = make_engine()
    continuation = Continuation((Emitted((VOCABULARY_SIZE,)),))
    with pytest.raises(TokenOutOfRangeError):
        engine.submit(request(continuation=continuation))


@pytest.mark.parametrize(
    ("choices", "path"),
    [
        ((Emitted(), Emitted()), "continuation.choices"),
        ((Emitted((97,) * 13),), "continuation.choices[0].token_ids"),
        ((Emitted((97,), mirostat_mu=float("nan")),), "continuation.choices[0].mirostat_mu"),
    ],
)
def test_what_contradicts_the_request_is_refused(choices, path):
    with pytest.raises(InvalidFieldError) as refused:
        request(continuation=Continuation(choices))
    assert [each.field for each in refused.value.field_violations] == [path]


async def test_only_gaps_between_tokens_of_this_worker_are_measured(make_engine):
    engine = make_engine()
    continuation = Continuation((Emitted((97,) * 11),))
    await events_of(engine, request(continuation=continuation))
    measured = engine.stats().histograms
    counts = {kind.value: sum(each.counts) for kind, each in measured.items()}
    assert counts["time_per_output_token_s"] == 0
    assert counts["end_to_end_s"] == 1
