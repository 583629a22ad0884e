"""Documents in which many words have to be copied: they teach to look back, in few tokens."""

import json
import random

from corpus.documents import COPIED, Document, Message, chat, with_jumps
from corpus.recall import filler_sentence, recall_facts
from corpus.structured import all_fields
from corpus.words import CITIES, CODES, COLOURS, DRINKS, NAMES, NUMBERS, PETS

_FIELD_VALUES = (*NAMES, *CITIES, *COLOURS, *NUMBERS, *PETS, *DRINKS)
_EVERYTHING = (*_FIELD_VALUES, *CODES)
_LONGEST_LIST = 12
_MOST_FACTS = 6


def copying_document(draw: random.Random) -> Document:
    """Several facts that are all asked for, all fields as JSON, or a list to repeat."""
    makers = (_many_facts, _all_fields, _repetition, _json_repetition)
    return draw.choices(makers, (2, 2, 4, 4))[0](draw)


def _json_repetition(draw: random.Random) -> Document:
    words = draw.sample(_FIELD_VALUES, draw.randint(1, _LONGEST_LIST))
    values = [int(word) if word.isdigit() else word for word in words]
    messages = [
        Message("user", f"Repeat as JSON: {' '.join(words)}."),
        Message("assistant", json.dumps(values)),
    ]
    return chat(messages, weight=COPIED)


def _repetition(draw: random.Random) -> Document:
    words = " ".join(draw.sample(_EVERYTHING, draw.randint(3, _LONGEST_LIST)))
    messages = [Message("user", f"Repeat: {words}."), Message("assistant", f"{words}.")]
    return chat(messages, weight=COPIED)


def _many_facts(draw: random.Random) -> Document:
    facts = recall_facts(draw, draw.randint(2, _MOST_FACTS))
    said = [fact.statement for fact in facts]
    for _ in range(draw.choice((0, 0, 1, 2, 4))):
        said.insert(draw.randrange(len(said) + 1), filler_sentence(draw))
    draw.shuffle(facts)
    first, *others = facts
    asked = Message("user", " ".join([*said, first.question]))
    messages = [asked, first.exchange()[1]]
    for fact in others:
        messages += fact.exchange()
    return with_jumps(chat(messages))


def _all_fields(draw: random.Random) -> Document:
    text, values = all_fields(draw)
    order = draw.choice(("Extract all fields as JSON: {}", "{} Give me all of it as JSON."))
    copied = tuple(str(value) for value in values.values())
    answer = Message("assistant", json.dumps(values), copied)
    return chat([Message("user", order.format(text)), answer])
