"""Short stories from a fixed plot: someone wants something, goes, fails, is helped, comes home.

Each story has at least 150 tokens, so that a story of that length never has to be stretched.
"""

import random

from corpus.documents import PROSE, Document, Message, chat, plain
from corpus.words import NAMES

_HEROES = (
    *("fox", "girl", "boy", "bear", "mouse", "merchant", "king", "queen", "sailor", "baker"),
    *("rabbit", "camel", "farmer", "shepherd", "bird", "cat", "dog", "frog", "monkey", "horse"),
)
_NATURES = ("little", "brave", "clever", "kind", "old", "young", "quiet", "curious", "poor", "wise")
_PLACES = (
    *("forest", "desert", "village", "valley", "town", "harbour", "castle", "garden", "farm"),
    *("mountain", "island", "palace"),
)
_TREASURES = (
    *("golden key", "silver bell", "red lantern", "blue stone", "warm coat", "magic book"),
    *("sweet apple", "white feather", "small boat", "green ring", "bright star", "old map"),
)
_OBSTACLES = ("river", "wall", "storm", "hill", "gate", "bridge", "wind", "cave")
_HELPERS = ("owl", "turtle", "goat", "duck", "bee", "donkey", "wolf", "fish", "swan", "crow")

_BEGINNINGS = (
    "Once upon a time there was a {nature} {hero} named {name}.",
    "Once upon a time a {nature} {hero} lived near the {place}. The name of the {hero} was {name}.",
    "Long ago there was a {nature} {hero} called {name}.",
    "In a far land there lived a {nature} {hero} named {name}.",
    "One day a {nature} {hero} named {name} woke up early.",
    "There was once a {nature} {hero} whose name was {name}.",
)
_HOMES = (
    "{name} lived in a small house near the {place}.",
    "The house of {name} was at the edge of the {place}.",
    "Every morning {name} looked out of the window at the {place}.",
    "{name} had lived in the {place} for many years.",
)
_WISHES = (
    "More than anything, {name} wanted to find the {treasure}.",
    "{name} had lost the {treasure} and wanted to have it back.",
    "An old song told of a {treasure}, and {name} wanted to see it.",
    "Every night {name} dreamed of the {treasure}.",
)
_DEPARTURES = (
    "So one day {name} packed some bread and water and left.",
    "So {name} closed the door and walked along the road.",
    "Early in the morning {name} began the long journey.",
    "The sun was shining when {name} went away.",
)
_PATHS = (
    "The way led through tall grass, past an empty mill and over a field of red flowers.",
    "In the evening {name} slept under a tree and counted the stars until morning came.",
    "The birds sang, the air was fresh and clear, and {name} walked on without a rest.",
    "{name} met many people on the road, but none of them had seen the {treasure}.",
)
_TROUBLES = (
    "Soon there was a {obstacle}, and the way was closed. {name} sat down and was sad.",
    "After three days {name} came to a great {obstacle}. It was too hard to go on alone.",
    "But the {obstacle} was wild and dangerous. {name} tried again and again, but nothing helped.",
    "Then {name} saw a {obstacle}. Nobody had ever passed it alone.",
)
_MEETINGS = (
    'Then a {helper} came along. "Why are you so sad?" asked the {helper}.',
    'A friendly {helper} heard this. "Can I help you?" said the {helper}.',
    'At that moment a {helper} looked out of the grass. "Where are you going?" it asked.',
    'Near a tree sat a {helper}. "What are you looking for?" it said.',
)
_ANSWERS = (
    '"I am looking for the {treasure}," said {name}. "But I cannot pass the {obstacle}."',
    '"The {obstacle} is in my way," said {name}, "and I must find the {treasure}."',
    "{name} told the {helper} about the {treasure} and about the {obstacle}.",
)
_RESCUES = (
    "The {helper} knew a secret path, and together they went on.",
    '"Come with me," said the {helper}. "Two are stronger than one."',
    "The {helper} was small but clever, and soon the {obstacle} was behind them.",
    "They worked together until the evening, and then the way was free.",
)
_FINDS = (
    "Under a big tree they found the {treasure}. {name} was very happy.",
    "On the other side lay the {treasure}. It was more beautiful than in any dream.",
    "And there was the {treasure}, in the light of the moon. {name} laughed and danced.",
    "At last {name} held the {treasure} and thanked the {helper}.",
)
_RETURNS = (
    "They went home together and had a big dinner.",
    "{name} took the {helper} home, and all the people were glad.",
    "On the way back they sang songs and told each other jokes.",
    "When {name} came home to the {place}, everybody wanted to hear the story.",
)
_ENDS = (
    "From that day on {name} and the {helper} were best friends. The end.",
    "{name} learned that a friend is worth more than gold. The end.",
    "And {name} never forgot that nobody has to be alone. The end.",
    "And if they have not gone away, they still live there today. The end.",
)
_PLOT = (
    *(_HOMES, _WISHES, _DEPARTURES, _PATHS, _TROUBLES, _MEETINGS, _ANSWERS, _RESCUES),
    *(_FINDS, _RETURNS, _ENDS),
)
_REQUESTS = (
    "Tell me a story about a {hero}.",
    "Please write a short story about a {hero}.",
    "Write a story about a {hero} named {name}.",
    "I want to hear a story about a {hero} named {name}.",
    "Tell me a story about {name}.",
    "Tell me a story.",
)


def story_document(draw: random.Random) -> Document:
    """A story, on its own or as the answer to a request."""
    slots = _slots(draw)
    text = _story(draw, slots)
    if draw.random() < 0.7:
        return plain(text)
    request = draw.choice(_REQUESTS).format(**slots)
    return chat([Message("user", request), Message("assistant", text)], weight=PROSE)


def story_beginning(draw: random.Random) -> str:
    """The first sentence of a story, for evaluation to continue."""
    return draw.choice(_BEGINNINGS).format(**_slots(draw)).split(". ")[0].rstrip(".") + "."


def _slots(draw: random.Random) -> dict[str, str]:
    return {
        "hero": draw.choice(_HEROES),
        "name": draw.choice(NAMES),
        "nature": draw.choice(_NATURES),
        "place": draw.choice(_PLACES),
        "treasure": draw.choice(_TREASURES),
        "obstacle": draw.choice(_OBSTACLES),
        "helper": draw.choice(_HELPERS),
    }


def _story(draw: random.Random, slots: dict[str, str]) -> str:
    parts = [draw.choice(templates).format(**slots) for templates in (_BEGINNINGS, *_PLOT)]
    return " ".join(parts)
