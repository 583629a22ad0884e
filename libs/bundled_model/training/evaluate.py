"""Asks a model all questions of the evaluation and prints the shares of right answers.

Usage: evaluate.py                                starts the services with the shipped model
       evaluate.py --address HOST:PORT --key FILE asks a gateway that runs
       evaluate.py --file MODEL.gguf              runs llama.cpp in this process
Greedy throughout. `--wrong` prints the wrong answers.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from answerers import Answerer, FileAnswerer, gateway_at, gateway_of_its_own
from corpus.documents import Message
from corpus.mixture import shares
from corpus.questions import held_out, listed
from corpus.recall import RecallCase, recall_case
from corpus.stories import story_beginning
from corpus.structured import TOOLS, extraction, tool_question
from tokenizer import split_words

_SEED = "evaluation"
_ANSWER_TOKENS = 40
_STORY_TOKENS = 150
_NUM_CASES = 100
_NUM_VOCABULARY_DOCUMENTS = 4000
_LEAST_DISTANCE = 500
_SAID_AND_ASKED = 50
_FRAME_TOKENS = 5
_FACTS_SAID = (1, 1, 2, 3)
_MOST_REPEATS = 3
_LONGEST_LOOP = 30


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was asked, what came, and whether that was right."""

    asked: str
    answered: str
    right: bool


Check = Callable[[Answerer], Iterator[Outcome]]


def questions(answerer: Answerer) -> Iterator[Outcome]:
    """The 200 listed questions."""
    for fact in listed():
        yield _ask(answerer, fact.frames[0], fact.key)


def paraphrases(answerer: Answerer) -> Iterator[Outcome]:
    """The 100 questions that training never had."""
    for fact in listed():
        if fact.name in held_out():
            yield _ask(answerer, fact.frames[held_out()[fact.name]], fact.key)


def recall(answerer: Answerer) -> Iterator[Outcome]:
    """What a user said more than 500 tokens ago, in one message or in turns."""
    draw = random.Random(_SEED)
    for rank in range(_NUM_CASES):
        case = _far_case(draw, turns=rank % 2 == 1)
        answer = answerer.chat(case.messages, _ANSWER_TOKENS)
        yield Outcome(case.messages[-1].content[-60:], answer, _contains(answer, case.asked.value))


def extractions(answerer: Answerer) -> Iterator[Outcome]:
    """A field of a sentence as JSON, compared as JSON."""
    draw = random.Random(_SEED)
    for _ in range(_NUM_CASES):
        order, expected, _ = extraction(draw)
        answer = answerer.chat([Message("user", order)], _ANSWER_TOKENS)
        yield Outcome(order, answer, answer == expected)


def tools(answerer: Answerer) -> Iterator[Outcome]:
    """The call of one of two tools."""
    draw = random.Random(_SEED)
    for _ in range(_NUM_CASES):
        question, call, _, _ = tool_question(draw)
        messages = [Message("system", TOOLS), Message("user", question)]
        answer = answerer.chat(messages, _ANSWER_TOKENS)
        yield Outcome(question, answer, answer == call)


def stories(answerer: Answerer) -> Iterator[Outcome]:
    """Stories of 150 tokens: no word that the corpus hasn't, no loop."""
    draw = random.Random(_SEED)
    known = _vocabulary()
    for _ in range(_NUM_CASES):
        beginning = story_beginning(draw)
        answer = answerer.complete(beginning, _STORY_TOKENS)
        whole = all(word in known for word in _words(answer))
        yield Outcome(beginning, answer, whole and most_repeats(answer.split()) <= _MOST_REPEATS)


CHECKS: dict[str, tuple[Check, int]] = {
    "questions": (questions, 90),
    "paraphrases": (paraphrases, 80),
    "recall": (recall, 90),
    "stories": (stories, 100),
    "extractions": (extractions, 90),
    "tools": (tools, 90),
}


def most_repeats(words: list[str]) -> int:
    """Returns how often some stretch of words follows itself at most; 1 is no repetition."""
    most = 1
    for length in range(1, _LONGEST_LOOP + 1):
        same = 0
        for place in range(length, len(words)):
            same = same + 1 if words[place] == words[place - length] else 0
            most = max(most, 1 + same // length)
    return most


def _ask(answerer: Answerer, question: str, key: str) -> Outcome:
    answer = answerer.chat([Message("user", question)], _ANSWER_TOKENS)
    return Outcome(question, answer, _contains(answer, key))


def _contains(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def _far_case(draw: random.Random, *, turns: bool) -> RecallCase:
    while True:
        case = recall_case(
            draw, 100 if turns else 72, turns=turns, num_facts=draw.choice(_FACTS_SAID)
        )
        if _least_tokens(case.messages) - _SAID_AND_ASKED > _LEAST_DISTANCE:
            return case


def _least_tokens(messages: list[Message]) -> int:
    """Counts a word as one token, which is the least that it can be."""
    return sum(len(split_words(message.content)) + _FRAME_TOKENS for message in messages)


def _vocabulary() -> set[str]:
    draw = random.Random(_SEED)
    texts = (share.make(draw) for share in shares(1) for _ in range(_NUM_VOCABULARY_DOCUMENTS))
    return {word for text in texts for span in text for word in _words(span.text)}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _report(answerer: Answerer, names: list[str], *, show_wrong: bool) -> bool:
    passed = True
    for name in names:
        check, wanted = CHECKS[name]
        outcomes = list(check(answerer))
        percent = 100 * sum(outcome.right for outcome in outcomes) / len(outcomes)
        passed = passed and percent >= wanted
        print(f"{name}: {percent:.1f} % of {len(outcomes)} (wanted: {wanted})", flush=True)
        for outcome in outcomes:
            if show_wrong and not outcome.right:
                print("  ", json.dumps([outcome.asked, outcome.answered]))
    return passed


@contextmanager
def _chosen(arguments: argparse.Namespace) -> Iterator[Answerer]:
    if arguments.file is not None:
        yield FileAnswerer(arguments.file)
    elif arguments.address is not None:
        with gateway_at(arguments.address, arguments.key) as answerer:
            yield answerer
    else:
        with gateway_of_its_own() as answerer:
            yield answerer


def main() -> int:
    """Evaluates; returns 0 when everything reaches what is wanted."""
    parser = argparse.ArgumentParser(description="Evaluate the bundled model.")
    parser.add_argument("--address", help="host:port of a running gateway")
    parser.add_argument("--key", type=Path, default=Path(".caravan/admin.key"))
    parser.add_argument("--file", type=Path, help="model to run in this process")
    parser.add_argument("--only", choices=sorted(CHECKS), action="append")
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers")
    arguments = parser.parse_args()
    with _chosen(arguments) as answerer:
        passed = _report(answerer, arguments.only or list(CHECKS), show_wrong=arguments.wrong)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
