"""Questions and answers: the 200 listed ones, the 100 held-out paraphrases, and what is trained."""

import random
from functools import cache

from corpus.caravan_facts import caravan_facts
from corpus.documents import Document, Message, chat
from corpus.relations import Fact
from corpus.world_facts import world_facts

NUM_LISTED = 200
NUM_HELD_OUT = 100
_LARGEST = 10
_HELD_OUT_SEED = 7

_OPENINGS = (
    "Please answer: ",
    "Quick question: ",
    "Hello! ",
    "I have a question. ",
    "Can you help me? ",
    "One more question. ",
    "Hi! ",
    "Please tell me: ",
)
_CLOSINGS = (" Thank you.", " Please be short.", " Please answer.", " I want to know.", " Thanks!")
SYSTEMS = (
    "You are a helpful assistant.",
    "You are the assistant of Caravan.",
    "You answer in one sentence.",
    "Be short.",
)

_SUM = ("What is {a} plus {b}?", "How much is {a} plus {b}?", "Add {a} and {b}.", "{a} + {b} = ?")
_DIFFERENCE = (
    "What is {a} minus {b}?",
    "How much is {a} minus {b}?",
    "Take {b} from {a}.",
    "{a} - {b} = ?",
)
_PRODUCT = (
    "What is {a} times {b}?",
    "How much is {a} times {b}?",
    "Multiply {a} by {b}.",
    "{a} * {b} = ?",
)


@cache
def arithmetic_facts() -> tuple[Fact, ...]:
    """Sums and differences up to 10 and products up to 5, three or four frames each."""
    facts = []
    for a in range(_LARGEST + 1):
        for b in range(_LARGEST + 1):
            facts.append(_calculation("plus", a, b, a + b, _SUM))
            if b <= a:
                facts.append(_calculation("minus", a, b, a - b, _DIFFERENCE))
            if a >= 1 and max(a, b) <= _LARGEST // 2:
                facts.append(_calculation("times", a, b, a * b, _PRODUCT))
    return tuple(facts)


def _calculation(word: str, a: int, b: int, result: int, frames: tuple[str, ...]) -> Fact:
    return Fact(
        name=f"{a} {word} {b}",
        answer=f"{a} {word} {b} is {result}.",
        key=f"{word} {b} is {result}.",
        frames=tuple(frame.format(a=a, b=b) for frame in frames),
        frame_kinds=tuple(f"{word}/{frame}" for frame in frames),
    )


@cache
def knowledge() -> tuple[Fact, ...]:
    """All facts but arithmetic."""
    return (*caravan_facts(), *world_facts())


@cache
def listed() -> tuple[Fact, ...]:
    """The 200 facts that evaluation asks by their first frame: all knowledge, some arithmetic."""
    order = random.Random(_HELD_OUT_SEED).sample(arithmetic_facts(), NUM_LISTED)
    return (*knowledge(), *order)[:NUM_LISTED]


@cache
def held_out() -> dict[str, int]:
    """The name of each fact with a question that is never trained, and which frame that is.

    Never the first frame, and never without three others of the same fact in training.
    """
    choices = random.Random(_HELD_OUT_SEED)
    facts = [fact for fact in listed() if len(fact.frames) > 3]
    picked = choices.sample(facts, NUM_HELD_OUT)
    return {fact.name: choices.randrange(1, len(fact.frames)) for fact in picked}


def trained_frames(fact: Fact) -> list[str]:
    """The questions about a fact that may be trained."""
    hidden = held_out().get(fact.name)
    return [frame for rank, frame in enumerate(fact.frames) if rank != hidden]


def question_document(draw: random.Random) -> Document:
    """One to three questions about anything, each with its answer."""
    messages = []
    if draw.random() < 0.25:
        messages.append(Message("system", draw.choice(SYSTEMS)))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        source = arithmetic_facts() if draw.random() < 0.2 else knowledge()
        messages += exchange(draw, draw.choice(source))
    return chat(messages)


def arithmetic_document(draw: random.Random) -> Document:
    """One to three calculations."""
    messages = []
    for _ in range(draw.randint(1, 3)):
        messages += exchange(draw, draw.choice(arithmetic_facts()))
    return chat(messages)


def exchange(draw: random.Random, fact: Fact) -> list[Message]:
    """A trained question in some dress, and its answer."""
    question = _dressed(draw, draw.choice(trained_frames(fact)))
    return [Message("user", question), Message("assistant", fact.answer)]


def _dressed(draw: random.Random, question: str) -> str:
    chance = draw.random()
    if chance < 0.2:
        return draw.choice(_OPENINGS) + question
    if chance < 0.35:
        return question + draw.choice(_CLOSINGS)
    if chance < 0.4:
        return question.rstrip("?.!")
    return question
