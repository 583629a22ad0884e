"""Model files that are no models, and templates that mean harm: one model suffers, no other."""

import random
import shutil

import grpc
import pytest

from caravan.inference.v1 import generation_pb2 as pb
from caravan.model.v1 import model_pb2
from caravan.model.v1 import model_service_pb2 as service_pb
from caravan_rpckit.details import error_details
from caravan_testkit.tiny_model import CHAT_TEMPLATE, ModelShape, write_tiny_gguf

HEADER_BYTES = 30_000
# Little to read and much to keep: a gigabyte of keys and values for the cells of this deployment.
DEEP = ModelShape(
    num_layers=256,
    width=128,
    num_heads=2,
    num_kv_heads=2,
    ffn_width=32,
    vocabulary_size=1000,
    context_length=4096,
)
HARMFUL = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "eats memory": "{{ 'x' * 10 ** 10 }}",
    "eats memory slowly": (
        "{% set ns = namespace(a='xxxxxxxx') %}"
        "{% for i in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}"
    ),
    "reaches for attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reaches for modules": "{{ raise_exception.__globals__['os'].system('true') }}",
    "includes files": "{% include '/etc/passwd' %}",
}
# Behaves at the trial of the load, and then does what the message asks for.
TREACHEROUS = (
    "".join(
        f"{{% if messages[0].content == '{harm}' %}}{code}{{% endif %}}"
        for harm, code in HARMFUL.items()
    )
    + CHAT_TEMPLATE
)


@pytest.fixture
def put(small_stack, small_admin):
    """Puts files into the folder of models; at last the models are unloaded and gone."""
    paths = []

    def place(name, content=None):
        path = small_stack.home / "models" / f"{name}.gguf"
        paths.append(path)
        if content is not None:
            path.write_bytes(content)
        return path

    yield place
    for path in paths:
        unload(small_admin, path.stem)
        path.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def nobody_else_notices(small_stack, small_admin):
    """The model that was there before answers as before, from the same process."""
    before = replica(small_admin, "slow").process_id
    yield
    assert generate(small_admin, model="slow", text="Once").choices[0].token_ids
    assert replica(small_admin, "slow").process_id == before
    assert small_stack.process("engine").is_running()


def load(client, name):
    request = service_pb.LoadModelRequest(model=name)
    return list(client.models.LoadModel(request, metadata=client.metadata, timeout=60))


def unload(client, name):
    request = service_pb.UnloadModelRequest(model=name, drain_timeout_ms=0)
    client.models.UnloadModel(request, metadata=client.metadata, timeout=60)


def model_of(client, name):
    request = service_pb.GetModelRequest(model=name)
    return client.models.GetModel(request, metadata=client.metadata, timeout=20).model


def replica(client, name):
    [only] = model_of(client, name).replicas
    return only


def generate(client, **fields):
    request = pb.GenerateRequest(
        **{"max_output_tokens": 4, "sampling": pb.SamplingOptions(temperature=0), **fields}
    )
    return client.inference.Generate(request, metadata=client.metadata, timeout=60)


def chat(client, model, content):
    turn = pb.ChatMessage(role=pb.CHAT_ROLE_USER, content=content)
    return generate(client, model=model, chat=pb.Chat(messages=[turn]))


def failure_of(call):
    """Code and details of a refusal; None where there is none."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error_details(error)
    return None


def refused(call):
    """Code and details of a call that has to be refused."""
    failure = failure_of(call)
    assert failure is not None, "not refused"
    assert failure[1] is not None, failure[0]
    return failure


def check_refused_file(client, name, *words):
    """Loading says what is wrong with the file, and so does the list, without the path."""
    code, details = refused(lambda: load(client, name))
    assert (code, details.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "MODEL_FILE_INVALID",
    )
    model = model_of(client, name)
    assert model.state == model_pb2.MODEL_STATE_FAILED
    for said in (details.message, model.state_detail):
        assert "/" not in said
        for word in words:
            assert word in said
    code, details = refused(lambda: generate(client, model=name, text="hi"))
    assert (code, details.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
    assert details.metadata["model"] == name


def test_a_model_that_is_nowhere_is_not_found(small_admin):
    code, details = refused(lambda: load(small_admin, "nowhere"))
    assert (code, details.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert details.metadata["model"] == "nowhere"


def test_a_file_that_is_missing_behind_its_link_is_refused(small_stack, small_admin, put):
    put("gone").symlink_to(small_stack.home / "models" / "nothing")
    check_refused_file(small_admin, "gone")


def test_an_empty_file_is_refused(small_admin, put):
    put("empty", b"")
    check_refused_file(small_admin, "empty", "empty")


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(small_stack, small_admin, put, share):
    content = (small_stack.home / "models" / "slow.gguf").read_bytes()
    put("cut", content[: int(len(content) * share)])
    check_refused_file(small_admin, "cut", "cut off")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"PK\x03\x04" + bytes(5000), "ZIP"),
        (b'{"weights": []}' + bytes(5000), "GGUF"),
        (b"\x93NUMPY" + bytes(5000), "GGUF"),
        (b"GGUF\x01\x00\x00\x00" + bytes(5000), "version 1"),
    ],
    ids=["zip", "json", "numpy", "old-gguf"],
)
def test_a_file_of_another_format_is_refused(small_admin, put, content, word):
    put("other", content)
    check_refused_file(small_admin, "other", word)


@pytest.mark.parametrize("seed", range(6))
def test_a_file_with_random_bytes_is_loaded_or_refused(small_admin, put, seed):
    path = write_tiny_gguf(put("fuzzed"))
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 4, 32])):
        content[chance.randrange(HEADER_BYTES)] = chance.randrange(256)
    path.write_bytes(content)

    refusal = failure_of(lambda: load(small_admin, "fuzzed"))

    if refusal is not None:
        code, details = refusal
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert details.reason in {"MODEL_FILE_INVALID", "MODEL_LOAD_FAILED", "MODEL_TOO_LARGE"}


def test_a_model_over_the_memory_budget_is_refused_with_both_sizes(small_admin, put):
    write_tiny_gguf(put("deep"), shape=DEEP)

    code, details = refused(lambda: load(small_admin, "deep"))

    assert (code, details.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_TOO_LARGE")
    assert int(details.metadata["needed_bytes"]) > int(details.metadata["budget_bytes"]) > 0
    assert not model_of(small_admin, "deep").replicas


def test_a_mended_file_is_served(small_stack, small_admin, put):
    path = put("mended", b"GGUF, one day")
    check_refused_file(small_admin, "mended")
    shutil.copy(small_stack.home / "models" / "slow.gguf", path)

    assert load(small_admin, "mended")[-1].model.state == model_pb2.MODEL_STATE_READY
    assert generate(small_admin, model="mended", text="hi").choices


def test_a_template_that_does_harm_fails_the_chat_alone(small_admin, put):
    write_tiny_gguf(put("treacherous"), chat_template=TREACHEROUS)
    load(small_admin, "treacherous")
    worker = replica(small_admin, "treacherous").process_id

    for harm in HARMFUL:
        code, details = refused(lambda harm=harm: chat(small_admin, "treacherous", harm))
        assert (code, details.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "CHAT_TEMPLATE_FAILED",
        ), harm
        assert "passwd" not in details.message
        assert chat(small_admin, "treacherous", "hello").choices, f"a chat after: {harm}"
    assert replica(small_admin, "treacherous").process_id == worker


@pytest.mark.parametrize(
    "template",
    [HARMFUL["loops"], HARMFUL["eats memory"], HARMFUL["reaches for attributes"], "{% if %}"],
    ids=["loops", "eats-memory", "reaches-for-attributes", "no-template"],
)
def test_a_model_whose_template_fails_the_trial_takes_texts_and_no_chats(
    small_admin, put, template
):
    write_tiny_gguf(put("untried"), chat_template=template)
    load(small_admin, "untried")

    assert not model_of(small_admin, "untried").details.has_chat_template
    code, details = refused(lambda: chat(small_admin, "untried", "hello"))
    assert (code, details.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NO_CHAT_TEMPLATE")
    assert details.metadata["model"] == "untried"
    assert generate(small_admin, model="untried", text="hello").choices
