"""How much of each kind of document the model reads."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from corpus.documents import Document, Message, chat
from corpus.questions import held_out, listed, question_document
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
    """The mixture, with recall over at most that many sentences."""
    return (
        Share("questions", 58, question_document),
        Share("stories", 8, story_document),
        Share("recall", 18, lambda draw: recall_document(draw, most_filler)),
        Share("extraction", 11, extraction_document),
        Share("tools", 5, tool_document),
    )


def documents(draw: random.Random, most_filler: int) -> Iterator[Document]:
    """Yields documents of all kinds for ever."""
    kinds = shares(most_filler)
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
