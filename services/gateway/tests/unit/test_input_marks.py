import pytest

from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as pb
from caravan_gateway.rpc.input_marks import marks_of

TEXT = "".join(chr(97 + number * 7 % 26) for number in range(1000))


@pytest.fixture
def marked(make_call, make_identity):
    def make(*, tenant="default", model="tiny", **fields):
        call, _ = make_call()
        call.identity, call.model = make_identity(tenant=tenant), model
        call.request = pb.GenerateRequest(**fields)
        return marks_of(call)

    return make


def common(left, right):
    """How many marks two inputs begin with in common."""
    pairs = zip(left.hashes, right.hashes, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(left.hashes))


def test_marks_lie_ever_further_apart(marked):
    marks = marked(text=TEXT)
    assert [round(1000 * share) for share in marks.shares] == [128, 192, 256, 384, 512, 768]
    assert all(0 <= mark < 2**32 for mark in marks.hashes)
    assert len(set(marks.hashes)) == 6
    assert len(marked(text="x" * (4 << 20)).hashes) == 31


def test_what_two_texts_have_in_common_is_found(marked):
    whole = marked(text=TEXT)
    assert common(whole, marked(text=TEXT[:600] + "!" * 400)) == 5
    assert common(whole, marked(text=TEXT + " and more")) == 6
    assert common(whole, marked(text="!" + TEXT)) == 0


def test_a_short_text_has_no_marks(marked):
    marks = marked(text="hello")
    assert (marks.hashes, marks.shares, marks.session) == ((), (), None)


@pytest.mark.parametrize("other", [{"tenant": "acme"}, {"model": "large"}])
def test_tenants_and_models_have_nothing_in_common(marked, other):
    one = marked(text=TEXT, session_id="s")
    another = marked(text=TEXT, session_id="s", **other)
    assert not set(one.hashes) & set(another.hashes)
    assert one.session != another.session


def test_a_turn_has_the_marks_of_the_turns_before_it(marked):
    def turns(*texts):
        roles = (pb.CHAT_ROLE_USER, pb.CHAT_ROLE_ASSISTANT)
        return pb.Chat(
            messages=[
                pb.ChatMessage(role=roles[at % 2], content=text) for at, text in enumerate(texts)
            ]
        )

    first = marked(chat=turns(TEXT), session_id="s")
    second = marked(chat=turns(TEXT, "an answer", TEXT), session_id="s")
    assert common(first, second) == len(first.hashes) > 0
    assert first.session == second.session
    assert first.session != marked(chat=turns(TEXT), session_id="t").session


def test_roles_and_turns_are_told_apart(marked):
    def chat(*messages):
        return pb.Chat(
            messages=[pb.ChatMessage(role=role, content=text) for role, text in messages]
        )

    one = marked(chat=chat((pb.CHAT_ROLE_USER, TEXT)))
    assert common(one, marked(chat=chat((pb.CHAT_ROLE_SYSTEM, TEXT)))) == 0
    halves = chat((pb.CHAT_ROLE_USER, TEXT[:50]), (pb.CHAT_ROLE_USER, TEXT[50:]))
    assert common(one, marked(chat=halves)) == 0


def test_tokens_are_marked_too(marked):
    one = marked(token_ids=pb.TokenIds(ids=range(100)))
    other = marked(token_ids=pb.TokenIds(ids=[*range(70), *range(30)]))
    assert len(one.hashes) == 4
    assert common(one, other) == 3


def test_other_calls_have_no_marks(make_call, make_identity):
    call, _ = make_call()
    call.identity, call.request = make_identity(), embedding_pb.EmbedRequest()
    assert marks_of(call) is None
