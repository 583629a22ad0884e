import threading
from types import MappingProxyType

import pytest

from caravan_engine.domain.errors import EmptyInputError, TokenOutOfRangeError
from caravan_engine.prompts.errors import NoChatTemplateError
from caravan_engine.prompts.maker import PromptMaker
from caravan_engine.prompts.masking import Message

BOS, END = 1, 2


class LetterVocabulary:
    """A token per character, two control tokens, a BOS before text."""

    size = 200
    control_tokens = frozenset({BOS, END})
    control_texts = MappingProxyType({BOS: "<s>", END: "<e>"})
    end_tokens = frozenset({END})
    pieces = (b"", b"", b"", *(bytes([value]) for value in range(3, 200)))

    def __init__(self, adds_bos=True):
        self._adds_bos = adds_bos
        self.threads = set()

    def tokenize(self, text, *, add_special, parse_special):
        self.threads.add(threading.current_thread().name)
        tokens = [BOS] if add_special and self._adds_bos else []
        while text:
            control = next((i for i, t in self.control_texts.items() if text.startswith(t)), None)
            if parse_special and control is not None:
                tokens.append(control)
                text = text[3:]
            else:
                tokens.append(ord(text[0]))
                text = text[1:]
        return tokens


class Renderer:
    """Renders `<s>content<e>` for each message."""

    def __init__(self, template="<s>{}<e>"):
        self._template = template

    async def render(self, *conversations):
        return ["".join(self._template.format(m.content) for m in chat) for chat in conversations]


def letters(text):
    return tuple(map(ord, text))


@pytest.fixture
def make():
    makers = []

    def build(vocabulary=None, renderer=None, bos=BOS, splits_words=False):
        maker = PromptMaker(
            vocabulary or LetterVocabulary(),
            model="tiny",
            bos=bos,
            splits_words=splits_words,
            renderer=renderer,
        )
        makers.append(maker)
        return maker

    yield build
    for maker in makers:
        maker.close()


async def test_text_begins_with_bos_and_its_control_tokens_are_text(make):
    assert await make().of_text("a<e>") == (BOS, *letters("a<e>"))


async def test_empty_input_is_refused_although_a_bos_would_be_there(make):
    with pytest.raises(EmptyInputError):
        await make().of_text("")
    with pytest.raises(EmptyInputError):
        await make().of_tokens([])
    with pytest.raises(EmptyInputError):
        await make(renderer=Renderer()).of_chat([])


async def test_tokens_are_taken_as_they_are(make):
    assert await make().of_tokens([97, 98]) == (97, 98)


@pytest.mark.parametrize("token", [BOS, END, 200, 2**32 - 1])
async def test_control_tokens_and_strangers_are_refused(make, token):
    with pytest.raises(TokenOutOfRangeError):
        await make().of_tokens([97, token])


@pytest.mark.parametrize(
    ("tokens", "text"), [([], ""), ([BOS, 97, END, 98], "ab"), ([97, 195, 169, 195], "aé�")]
)
async def test_tokens_are_written_out(make, tokens, text):
    assert await make().text_of(tokens) == text


async def test_strangers_are_not_written_out(make):
    with pytest.raises(TokenOutOfRangeError) as refused:
        await make().text_of([97, 200])

    assert refused.value.metadata["index"] == "1"


async def test_only_the_templates_control_tokens_count(make):
    tokens = await make(renderer=Renderer()).of_chat([Message("user", "a<e>b")])

    assert tokens == (BOS, *letters("a<e>b"), END)


async def test_a_template_that_writes_no_bos_gets_one(make):
    tokens = await make(renderer=Renderer("{}")).of_chat([Message("user", "a")])

    assert tokens == (BOS, *letters("a"))


async def test_a_model_that_wants_no_bos_gets_none(make):
    maker = make(LetterVocabulary(adds_bos=False), Renderer("{}"))

    assert await maker.of_chat([Message("user", "a")]) == letters("a")


async def test_a_model_without_template_takes_no_chats(make):
    with pytest.raises(NoChatTemplateError) as refused:
        await make().of_chat([Message("user", "a")])

    assert refused.value.metadata == {"model": "tiny"}


async def test_large_inputs_are_tokenized_beside_the_event_loop(make):
    vocabulary = LetterVocabulary()
    maker = make(vocabulary, Renderer())
    vocabulary.threads.clear()
    await maker.of_text("a" * 10)
    assert vocabulary.threads == {threading.current_thread().name}

    vocabulary.threads.clear()
    await maker.of_text("a" * 10_000)
    await maker.of_chat([Message("user", "a" * 10_000)])
    assert {name[:8] for name in vocabulary.threads} == {"tokenize"}


@pytest.mark.parametrize("text", ["word " * 3000, "x" * 20_000, "a<e>" * 5000])
async def test_long_text_for_a_splitting_tokenizer_comes_in_pieces_with_the_same_tokens(make, text):
    whole = LongestText()
    cut = LongestText()

    assert await make(cut, splits_words=True).of_text(text) == await make(whole).of_text(text)
    assert (cut.longest, whole.longest) == (min(cut.longest, 4096), len(text))


async def test_a_long_chat_for_a_splitting_tokenizer_has_the_same_tokens(make):
    messages = [Message("user", "word <e> " * 2000), Message("user", "x" * 9000)]
    whole, cut = LongestText(), LongestText()

    tokens = await make(cut, Renderer(), splits_words=True).of_chat(messages)

    assert tokens == await make(whole, Renderer()).of_chat(messages)
    assert cut.longest <= 4096


class LongestText(LetterVocabulary):
    """Remembers the longest text that it had to tokenize at once."""

    longest = 0

    def tokenize(self, text, *, add_special, parse_special):
        self.longest = max(self.longest, len(text))
        return super().tokenize(text, add_special=add_special, parse_special=parse_special)
