import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caravan_gateway.domain.errors import EmptyInputError, InvalidFieldsError
from caravan_gateway.domain.generation import Dry, GenerationSpec, Mirostat, Sampling, Xtc
from caravan_gateway.domain.inference_spec import (
    ChatInput,
    DetokenizeSpec,
    EmbedSpec,
    TextInput,
    TokenInput,
    TokenizeSpec,
)
from caravan_gateway.domain.validation import validate


def _fields(spec):
    with pytest.raises(InvalidFieldsError) as caught:
        validate(spec)
    return [violation.field for violation in caught.value.field_violations]


GOOD = {
    "temperature": (0, 0.8, 5),
    "top_k": (0, 1, 1024),
    "top_p": (1e-6, 0.95, 1),
    "min_p": (0, 0.05, 1),
    "repeat_penalty": (1e-6, 1, 10),
    "frequency_penalty": (-2, 0, 2),
    "presence_penalty": (-2, 0, 2),
    "penalty_last_n": (0, 64, 8192),
    "typical_p": (1e-6, 1),
}
BAD = {
    "temperature": (-0.1, 5.1),
    "top_k": (1025,),
    "top_p": (0, -1, 1.01),
    "min_p": (-0.1, 1.1),
    "repeat_penalty": (0, -1, 10.1),
    "frequency_penalty": (-2.1, 2.1),
    "presence_penalty": (-2.1, 2.1),
    "penalty_last_n": (8193,),
    "typical_p": (0, 1.01),
}
OPTIONS = {
    Dry: {
        "multiplier": ((0, 5), (-0.1, 5.1)),
        "base": ((1, 4), (0.9, 4.1)),
        "allowed_length": ((0, 100), (101,)),
        "penalty_last_n": ((0, 8192), (8193,)),
    },
    Xtc: {
        "probability": ((0, 1), (-0.1, 1.1)),
        "threshold": ((0, 0.5), (-0.1, 0.51)),
    },
    Mirostat: {
        "tau": ((1e-6, 20), (0, 20.1)),
        "eta": ((1e-6, 1), (0, 1.1)),
    },
}
NEVER = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in GOOD.items() for v in vs])
def test_a_sampling_value_in_its_range_is_taken(make_spec, name, value):
    validate(make_spec(sampling=Sampling(**{name: value})))


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, v) for n, vs in BAD.items() for v in (*vs, *NEVER) if n not in {"top_k"} or v == 1025],
)
def test_a_sampling_value_out_of_its_range_is_named(make_spec, name, value):
    assert _fields(make_spec(sampling=Sampling(**{name: value}))) == [f"sampling.{name}"]


def _with(kind, **values):
    return Sampling(**{kind.__name__.lower(): kind(**values)})


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (kind, name, value)
        for kind, fields in OPTIONS.items()
        for name, (good, _) in fields.items()
        for value in good
    ],
)
def test_a_value_of_a_sampler_of_its_own_in_its_range_is_taken(make_spec, kind, name, value):
    validate(make_spec(sampling=_with(kind, **{name: value})))


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (kind, name, value)
        for kind, fields in OPTIONS.items()
        for name, (_, bad) in fields.items()
        for value in (*bad, *NEVER)
    ],
)
def test_a_value_of_a_sampler_of_its_own_out_of_its_range_is_named(make_spec, kind, name, value):
    path = f"sampling.{kind.__name__.lower()}.{name}"
    assert _fields(make_spec(sampling=_with(kind, **{name: value}))) == [path]


def test_sequence_breakers_have_a_number_and_a_size(make_spec):
    path = "sampling.dry.sequence_breakers"
    validate(make_spec(sampling=_with(Dry, breaker_sizes=(1, 40) * 8)))
    sizes = _with(Dry, breaker_sizes=(1, 0, 41))
    assert _fields(make_spec(sampling=sizes)) == [f"{path}[1]", f"{path}[2]"]
    assert _fields(make_spec(sampling=_with(Dry, breaker_sizes=(1,) * 17))) == [path]


def test_all_faults_of_all_samplers_come_at_once(make_spec):
    sampling = Sampling(
        typical_p=math.nan,
        dry=Dry(multiplier=math.inf, base=5),
        xtc=Xtc(probability=2, threshold=math.nan),
        mirostat=Mirostat(tau=0, eta=-math.inf),
    )
    assert _fields(make_spec(sampling=sampling, choice_count=0, logprob_top_count=21)) == [
        "sampling.typical_p",
        "sampling.dry.multiplier",
        "sampling.dry.base",
        "sampling.xtc.probability",
        "sampling.xtc.threshold",
        "sampling.mirostat.tau",
        "sampling.mirostat.eta",
        "choice_count",
        "logprobs.top_count",
    ]


@pytest.mark.parametrize("value", [100.1, -100.1, *NEVER])
def test_a_bias_out_of_its_range_is_named_by_its_token(make_spec, value):
    bias = {7: value, 8: 100.0, 9: -100.0}
    assert _fields(make_spec(sampling=Sampling(logit_bias=bias))) == ["sampling.logit_bias[7]"]


def test_too_many_biases_are_one_fault(make_spec):
    validate(make_spec(sampling=Sampling(logit_bias=dict.fromkeys(range(1024), 0.0))))
    bias = dict.fromkeys(range(1025), 0.0)
    assert _fields(make_spec(sampling=Sampling(logit_bias=bias))) == ["sampling.logit_bias"]


@pytest.mark.parametrize(
    ("given_input", "field"),
    [
        (TextInput(0), "text"),
        (TokenInput(0), "token_ids.ids"),
        (ChatInput(()), "chat.messages"),
    ],
)
def test_nothing_to_continue_has_its_own_error(make_spec, given_input, field):
    with pytest.raises(EmptyInputError) as caught:
        validate(make_spec(input=given_input))
    assert [one.field for one in caught.value.field_violations] == [field]


def test_an_empty_input_beside_other_faults_is_one_of_them(make_spec):
    spec = make_spec(input=TextInput(0), max_output_tokens=0)
    with pytest.raises(InvalidFieldsError) as caught:
        validate(spec)
    assert not isinstance(caught.value, EmptyInputError)
    assert _fields(spec) == ["text", "max_output_tokens"]


def test_a_missing_input_is_named(make_spec):
    assert _fields(make_spec(input=None)) == ["input"]


def test_unknown_roles_are_named_by_their_position(make_spec):
    assert _fields(make_spec(input=ChatInput((True, False, True, False)))) == [
        "chat.messages[1].role",
        "chat.messages[3].role",
    ]


def test_a_chat_has_at_most_1024_messages(make_spec):
    validate(make_spec(input=ChatInput((True,) * 1024)))
    assert _fields(make_spec(input=ChatInput((True,) * 1025))) == ["chat.messages"]


def test_a_thousand_faults_of_one_kind_are_not_all_listed(make_spec):
    assert len(_fields(make_spec(input=ChatInput((False,) * 1024)))) == 16


def test_stop_strings_have_a_number_and_a_size(make_spec):
    validate(make_spec(stop_sizes=(1, 256)))
    assert _fields(make_spec(stop_sizes=(1, 0, 257))) == ["stop[1]", "stop[2]"]
    assert _fields(make_spec(stop_sizes=(1,) * 17)) == ["stop"]


def test_labels_have_a_number_and_sizes_in_bytes(make_spec):
    validate(make_spec(labels={"k" * 63: "v" * 255, "a": ""}))
    assert _fields(make_spec(labels={"": "x"})) == ["labels"]
    assert _fields(make_spec(labels={"ü" * 32: "x"})) == ["labels"]
    assert _fields(make_spec(labels={"k": "ü" * 128})) == ["labels"]
    assert _fields(make_spec(labels={str(n): "" for n in range(17)})) == ["labels"]


@pytest.mark.parametrize("name", ["", "x" * 256, "ü" * 128])
def test_a_model_name_has_1_to_255_bytes(make_spec, name):
    validate(make_spec(model="x" * 255))
    assert _fields(make_spec(model=name)) == ["model"]


def test_counts_have_their_bounds(make_spec):
    validate(make_spec(max_output_tokens=1, priority=100))
    validate(make_spec(priority=0))
    assert _fields(make_spec(max_output_tokens=0)) == ["max_output_tokens"]
    assert _fields(make_spec(priority=101)) == ["priority"]


@pytest.mark.parametrize(
    ("name", "good", "bad", "path"),
    [
        ("choice_count", (1, 16), (0, 17), "choice_count"),
        ("logprob_top_count", (0, 20), (21,), "logprobs.top_count"),
        ("session_id_size", (1, 128), (0, 129), "session_id"),
    ],
)
def test_choices_logprobs_and_sessions_have_their_bounds(make_spec, name, good, bad, path):
    for value in good:
        validate(make_spec(**{name: value}))
    for value in bad:
        assert _fields(make_spec(**{name: value})) == [path]


def test_what_is_split_is_judged_like_the_input_of_a_generation():
    validate(TokenizeSpec(model="tiny", input=TextInput(1)))
    assert _fields(TokenizeSpec(model="", input=None)) == ["model", "input"]
    for given_input, field in ((TextInput(0), "text"), (ChatInput(()), "chat.messages")):
        with pytest.raises(EmptyInputError) as caught:
            validate(TokenizeSpec(model="tiny", input=given_input))
        assert [one.field for one in caught.value.field_violations] == [field]
    roles = ChatInput((True, False))
    assert _fields(TokenizeSpec(model="tiny", input=roles)) == ["chat.messages[1].role"]


def test_at_most_2_to_the_20_tokens_are_written_out():
    validate(DetokenizeSpec(model="tiny", id_count=0))
    validate(DetokenizeSpec(model="tiny", id_count=2**20))
    assert _fields(DetokenizeSpec(model="tiny", id_count=2**20 + 1)) == ["ids"]


def test_inputs_to_embed_have_a_number_and_are_not_empty():
    def embed(*inputs, **fields):
        return EmbedSpec(model="tiny", inputs=inputs, **fields)

    validate(embed(*(TextInput(1),) * 255, TokenInput(1)))
    assert _fields(embed(*(TextInput(1),) * 257)) == ["inputs"]
    assert _fields(embed(TextInput(0), None, TokenInput(0), priority=101)) == [
        "inputs[0].text",
        "inputs[2].token_ids.ids",
        "inputs[1].input",
        "priority",
    ]
    for inputs, fields in (
        ((), ["inputs"]),
        ((TextInput(1), TextInput(0)), ["inputs[1].text"]),
        ((TextInput(0),) * 256, [f"inputs[{index}].text" for index in range(16)]),
    ):
        with pytest.raises(EmptyInputError) as caught:
            validate(embed(*inputs))
        assert [one.field for one in caught.value.field_violations] == fields


@given(
    st.builds(
        GenerationSpec,
        model=st.text(max_size=300),
        input=st.one_of(st.none(), st.builds(TextInput, st.integers(0, 5))),
        sampling=st.builds(
            Sampling,
            temperature=st.none() | st.floats(),
            top_p=st.none() | st.floats(),
            repeat_penalty=st.none() | st.floats(),
            logit_bias=st.dictionaries(st.integers(0, 9), st.floats(), max_size=3),
        ),
        stop_sizes=st.lists(st.integers(0, 300), max_size=20).map(tuple),
        labels=st.dictionaries(st.text(max_size=70), st.text(max_size=300), max_size=3),
    )
)
def test_whatever_is_sent_is_judged_by_field_names_and_values_are_not_repeated(spec):
    error = _judgement(spec)
    if error is not None:
        assert error.field_violations
        texts = [violation.description for violation in error.field_violations]
        assert not [label for label in spec.labels.values() if len(label) > 30 and label in texts]


def _judgement(spec):
    try:
        validate(spec)
    except InvalidFieldsError as error:
        return error
    return None
