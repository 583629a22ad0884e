"""How much of each kind of document the model reads."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from corpus.copying import copying_document, dense_copying_document
from corpus.documents import COPIED, Document, Message, chat
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


def first_shares(most_filler: int) -> tuple[Share, ...]:
    """The mixture to begin with; recall is over at most that many sentences."""
    return (
        Share("questions", 58, question_document),
        Share("stories", 8, story_document),
        Share("recall", 18, lambda draw: recall_document(draw, most_filler)),
        Share("extraction", 11, extraction_document),
        Share("tools", 5, tool_document),
    )


def later_shares(most_filler: int) -> tuple[Share, ...]:
    """The mixture once questions are known well: more to look up and to copy."""
    return (
        Share("questions", 42, question_document),
        Share("stories", 6, story_document),
        Share("recall", 20, lambda draw: recall_document(draw, most_filler)),
        Share("extraction", 14, extraction_document),
        Share("tools", 6, tool_document),
        Share("copying", 12, copying_document),
    )


def last_shares(most_filler: int) -> tuple[Share, ...]:
    """The mixture for the rest: what is still hard comes more often."""
    return (
        Share("questions", 20, question_document),
        Share("arithmetic", 12, arithmetic_document),
        Share("stories", 3, story_document),
        Share("recall", 19, lambda draw: recall_document(draw, most_filler)),
        Share("extraction", 10, extraction_document),
        Share("tools", 8, lambda draw: tool_document(draw, COPIED)),
        Share("copying", 28, dense_copying_document),
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
