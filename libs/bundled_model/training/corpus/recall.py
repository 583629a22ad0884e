"""Recall: something is said early, other things follow, and at the end it is asked for."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from corpus.documents import Document, Message, chat, with_jumps
from corpus.questions import exchange, knowledge
from corpus.words import CITIES, CODES, COLOURS, NAMES, NUMBERS, PETS


@dataclass(frozen=True, slots=True)
class _Kind:
    """Something that a user may say about a thing, and the ways to ask for it."""

    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class RecallFact:
    """Something said, a question for it, and its answer, which contains the value."""

    statement: str
    question: str
    answer: str
    value: str

    def exchange(self) -> list[Message]:
        """The question and the answer."""
        answer = Message("assistant", self.answer, (self.value,))
        return [Message("user", self.question), answer]


@dataclass(frozen=True, slots=True)
class RecallCase:
    """A chat that ends with a question, what that asks for, and what else was said."""

    messages: list[Message]
    asked: RecallFact
    others: list[RecallFact]


_KINDS = (
    _Kind(
        NAMES,
        ("My name is {v}.", "I am called {v}."),
        ("What is my name?", "How am I called?", "Do you know my name?"),
        "Your name is {v}.",
    ),
    _Kind(
        CITIES,
        ("I live in {v}.", "My home is in {v}."),
        ("Where do I live?", "In which city do I live?", "Where is my home?"),
        "You live in {v}.",
    ),
    _Kind(
        COLOURS,
        ("My favourite colour is {v}.", "The colour that I like most is {v}."),
        ("What is my favourite colour?", "Which colour do I like most?"),
        "Your favourite colour is {v}.",
    ),
    _Kind(
        PETS,
        ("My pet is a {v}.", "At home I have a {v}."),
        ("What is my pet?", "Which animal do I have at home?"),
        "Your pet is a {v}.",
    ),
    _Kind(
        CODES,
        ("The secret word is {v}.", "Remember the secret word {v}."),
        ("What is the secret word?", "Which word is the secret word?"),
        "The secret word is {v}.",
    ),
    _Kind(
        NUMBERS,
        ("The number of the box is {v}.", "My box has the number {v}."),
        ("What is the number of the box?", "Which number does the box have?"),
        "The number of the box is {v}.",
    ),
    _Kind(
        NAMES,
        ("The leader of the caravan is {v}.", "{v} leads the caravan."),
        ("Who is the leader of the caravan?", "Who leads the caravan?"),
        "The leader of the caravan is {v}.",
    ),
)

_THINGS = ("sun", "moon", "wind", "road", "market", "old house", "ship", "field", "rain", "well")
_DOINGS = (
    *("was quiet", "came late", "was full of light", "went by slowly", "stayed the same"),
    *("was far away", "changed again", "was old and dry", "made people glad"),
)
_TIMES = ("In the morning", "At night", "In spring", "Every day", "After lunch", "Later", "Then")
_PEOPLE = ("people", "children", "merchants", "farmers", "sailors", "friends")
_DEEDS = (
    *("sat down and talked", "carried water and salt", "counted the boxes", "walked on"),
    *("sang old songs", "waited for the rain", "looked at the stars", "sold bread and silk"),
    *("asked for the way", "closed the door"),
)
_MOST_FACTS = 6
_HEARD = ("I will remember that.", "Thank you, I will remember that.")


def filler_sentence(draw: random.Random) -> str:
    """A sentence that holds nothing that is ever asked for."""
    if draw.random() < 0.5:
        return f"{draw.choice(_TIMES)} the {draw.choice(_THINGS)} {draw.choice(_DOINGS)}."
    return f"{draw.choice(_TIMES)} the {draw.choice(_PEOPLE)} {draw.choice(_DEEDS)}."


def recall_facts(draw: random.Random, count: int) -> list[RecallFact]:
    """Makes facts of different kinds."""
    facts = []
    for kind in draw.sample(_KINDS, count):
        value = draw.choice(kind.values)
        facts.append(
            RecallFact(
                statement=draw.choice(kind.statements).format(v=value),
                question=draw.choice(kind.questions),
                answer=kind.answer.format(v=value),
                value=value,
            )
        )
    return facts


def recall_case(draw: random.Random, num_filler: int, *, turns: bool, num_facts: int) -> RecallCase:
    """Makes a case with `num_filler` sentences between what is said and the question.

    Args:
        draw: decides everything.
        num_filler: sentences, of about nine tokens each.
        turns: the filler is other turns of the chat rather than text in one message.
        num_facts: how many facts are said at the beginning.
    """
    facts = recall_facts(draw, num_facts)
    said = " ".join(fact.statement for fact in facts)
    draw.shuffle(facts)
    asked, *others = facts
    compose: Callable[..., list[Message]] = _in_turns if turns else _in_one_message
    return RecallCase(compose(draw, said, asked.question, num_filler), asked, others)


def _in_one_message(
    draw: random.Random, said: str, question: str, num_filler: int
) -> list[Message]:
    filler = [filler_sentence(draw) for _ in range(num_filler)]
    before = [filler_sentence(draw) for _ in range(draw.choice((0, 0, 0, 1)))]
    return [Message("user", " ".join([*before, said, *filler, question]))]


def _in_turns(draw: random.Random, said: str, question: str, num_filler: int) -> list[Message]:
    messages = [Message("user", said), Message("assistant", draw.choice(_HEARD))]
    for _ in range(num_filler // 4):
        messages += exchange(draw, draw.choice(knowledge()))
    return [*messages, Message("user", question)]


def recall_document(draw: random.Random, most_filler: int) -> Document:
    """A case with any number of filler sentences up to a limit, and questions for the rest.

    Many questions on one text: each is a place where looking far back is trained, and the text
    costs the same for one as for six.
    """
    num_filler = int(most_filler * draw.random() ** 1.5)
    num_facts = draw.randint(1, _MOST_FACTS)
    case = recall_case(draw, num_filler, turns=draw.random() < 0.3, num_facts=num_facts)
    messages = [*case.messages, case.asked.exchange()[1]]
    for fact in case.others:
        messages += fact.exchange()
    return with_jumps(chat(messages))
