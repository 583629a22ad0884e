from dataclasses import replace

import pytest

from caravan_engine.domain.events import Delta
from caravan_engine.domain.request import Continuation, Emitted, GenerationRequest
from caravan_engine.domain.sampling.options import MirostatOptions, SamplingOptions
from caravan_engine.runtime.resumption import retell

PIECES = [bytes([value]) for value in range(256)]


def request(*texts, stop=(), **fields):
    choices = tuple(Emitted(tuple(text.encode())) for text in texts)
    return GenerationRequest(
        **{
            "request_id": "r",
            "prompt": (1,),
            "sampling": SamplingOptions(temperature=0),
            "seed": 1,
            "stop": stop,
            "choice_count": len(texts),
            "continuation": Continuation(choices),
            **fields,
        }
    )


def test_what_was_emitted_is_told_again_in_the_smallest_pieces():
    assert list(retell(request("aéb"), PIECES)) == [
        Delta(0, "a", (97,), 0),
        Delta(0, "é", (0xC3, 0xA9), 1),
        Delta(0, "b", (98,), 3),
    ]


def test_what_may_begin_a_stop_string_is_told_when_it_did_not():
    assert [each.text for each in retell(request("aSTx", stop=("STOP",)), PIECES)] == [
        "a",
        "STx",
    ]


def test_a_stop_string_is_cut_off_but_its_tokens_are_told():
    told = list(retell(request("aSTOP", stop=("STOP",)), PIECES))
    assert "".join(each.text for each in told) == "a"
    assert sum(len(each.token_ids) for each in told) == 5


def test_every_choice_has_its_own():
    told = list(retell(request("ab", "", "c"), PIECES))
    assert [(each.choice_index, each.token_offset, each.text) for each in told] == [
        (0, 0, "a"),
        (0, 1, "b"),
        (2, 0, "c"),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"num_top_logprobs": 0},
        {"sampling": replace(SamplingOptions(), mirostat=MirostatOptions())},
    ],
)
def test_what_tokens_do_not_tell_is_not_told_again(fields):
    assert list(retell(request("ab", **fields), PIECES)) == []
