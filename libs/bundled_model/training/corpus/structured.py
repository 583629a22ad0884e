"""Answers in JSON: a field taken out of a sentence, and calls of one of two tools."""

import json
import random

from corpus.documents import Document, Message, chat
from corpus.words import CITIES, COLOURS, DRINKS, NAMES, NUMBERS, PETS

TOOLS = (
    "You can call two tools: get_weather(city) and add(a, b). To call one, answer only with JSON."
)
_FIELDS = {
    "name": NAMES,
    "city": CITIES,
    "age": NUMBERS,
    "pet": PETS,
    "colour": COLOURS,
    "drink": DRINKS,
}
_PERSONS = (
    "{name} is {age} years old and lives in {city}.",
    "{name} from {city} has a {pet} and likes {drink}.",
    "In {city} lives {name}, who is {age} and likes the colour {colour}.",
    "{name} drinks {drink} with a {pet} in {city}.",
    "The {pet} of {name} is {colour}. They live in {city}.",
)
_ORDERS = (
    "Extract the {field} as JSON: {text}",
    "Give me the {field} as JSON. {text}",
    "Read this text: {text} Answer with the {field} as JSON.",
    "{text} Extract the {field} as JSON.",
)
_WEATHER = ("sunny", "rainy", "windy", "cloudy", "cold", "hot", "dry")
_WEATHER_QUESTIONS = (
    "What is the weather in {city}?",
    "How is the weather in {city}?",
    "Tell me the weather in {city}.",
)
_ADD_QUESTIONS = ("Add {a} and {b}.", "What is {a} plus {b}?", "How much is {a} plus {b}?")


def extraction(draw: random.Random) -> tuple[str, str, str]:
    """Returns an order to extract a field, the JSON that answers it, and the value in that."""
    template = draw.choice(_PERSONS)
    values = {name: draw.choice(choices) for name, choices in _FIELDS.items()}
    field = draw.choice([name for name in _FIELDS if f"{{{name}}}" in template])
    order = draw.choice(_ORDERS).format(field=field, text=template.format(**values))
    value = int(values[field]) if field == "age" else values[field]
    return order, json.dumps({field: value}), values[field]


def all_fields(draw: random.Random) -> tuple[str, dict[str, str | int]]:
    """Returns a sentence and everything that it says, in the order of `_FIELDS`."""
    template = draw.choice(_PERSONS)
    values = {name: draw.choice(choices) for name, choices in _FIELDS.items()}
    said = {name: value for name, value in values.items() if f"{{{name}}}" in template}
    fields = {name: int(value) if name == "age" else value for name, value in said.items()}
    return template.format(**values), fields


def extraction_document(draw: random.Random) -> Document:
    """One extraction."""
    order, answer, value = extraction(draw)
    return chat([Message("user", order), Message("assistant", answer, (value,))])


def tool_question(draw: random.Random) -> tuple[str, str, str, str]:
    """Returns a question, the call that it needs, what the tool says, and the final answer."""
    if draw.random() < 0.5:
        city, weather = draw.choice(CITIES), draw.choice(_WEATHER)
        call = {"name": "get_weather", "arguments": {"city": city}}
        result = json.dumps({"weather": weather})
        question = draw.choice(_WEATHER_QUESTIONS).format(city=city)
        return question, json.dumps(call), result, f"It is {weather} in {city}."
    a, b = (int(draw.choice(NUMBERS)) for _ in range(2))
    call = {"name": "add", "arguments": {"a": a, "b": b}}
    question = draw.choice(_ADD_QUESTIONS).format(a=a, b=b)
    return question, json.dumps(call), json.dumps({"sum": a + b}), f"The sum is {a + b}."


def tool_document(draw: random.Random) -> Document:
    """A tool call with its result and the answer."""
    question, call, result, answer = tool_question(draw)
    values = (*json.loads(call)["arguments"].values(), *json.loads(result).values())
    copied = tuple(str(value) for value in values)
    return chat(
        [
            Message("system", TOOLS),
            Message("user", question),
            Message("assistant", call, copied),
            Message("tool", result),
            Message("assistant", answer, copied),
        ]
    )
