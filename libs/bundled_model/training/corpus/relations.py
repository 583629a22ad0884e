"""What a fact is: one subject of a relation, with one answer and many ways to ask for it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that the model knows.

    `frames` are whole questions; the first one is the listed one. `frame_kinds` names the pattern
    behind each of them, so that a held-out question only uses patterns that others train.
    """

    name: str
    answer: str
    key: str
    frames: tuple[str, ...]
    frame_kinds: tuple[str, ...]


def relation(
    name: str, frames: Sequence[str], answer: str, rows: Sequence[tuple[str, str]]
) -> list[Fact]:
    """Makes a fact of each row `(subject, object)`; `{s}` and `{o}` stand for them.

    The key phrase is the object, which is what an answer has to contain.
    """
    return [
        Fact(
            name=f"{name}: {subject}",
            answer=_sentence(answer.format(s=subject, o=thing)),
            key=thing,
            frames=tuple(_sentence(frame.format(s=subject)) for frame in frames),
            frame_kinds=tuple(f"{name}/{frame}" for frame in frames),
        )
        for subject, thing in rows
    ]


_NEVER_CAPITAL = ("gRPC", "llama.cpp")


def _sentence(text: str) -> str:
    return text if text.startswith(_NEVER_CAPITAL) else text[0].upper() + text[1:]
