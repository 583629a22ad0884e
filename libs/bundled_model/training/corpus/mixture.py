"""How much of each kind of document the model reads."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from corpus.copying import copying_document
from corpus.documents import Document, Message, chat
from corpus.questions import arithmetic_document, held_out, listed, question_document
from corpus.recall import recall_document
from corpus.stories import story_document
from corpus.structured import extraction_document, tool_document


@dataclass(frozen=True, slots=True)
class Share:
    """A kind of document and how many of a hundred are of it."""

    name: str
    percent: int
    make: Callable[[random.Random], Document]


def shares(most_filler: int) -> tuple[Share, ...]:
    """The mixture; recall is over at most that many sentences."""
    return (
        Share("questions", 28, question_document),
        Share("arithmetic", 8, arithmetic_document),
        Share("stories", 3, story_document),
        Share("recall", 28, lambda draw: recall_document(draw, most_filler)),
        Share("extraction", 12, extraction_document),
        Share("tools", 7, tool_document),
        Share("copying", 14, copying_document),
    )


def documents(draw: random.Random, kinds: Sequence[Share]) -> Iterator[Document]:
    """Yields documents of all kinds for ever."""
    while True:
        (kind,) = draw.choices(kinds, [kind.percent for kind in kinds])
        yield kind.make(draw)


def paraphrase_documents() -> Iterator[Document]:
    """Yields the held-out paraphrases with their answers; never trained."""
    hidden = held_out()
    for fact in listed():
        if fact.name in hidden:
            question = fact.frames[hidden[fact.name]]
            yield chat([Message("user", question), Message("assistant", fact.answer)])
