"""What a client has of a generation: enough for another worker to go on with it."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from caravan_gateway.domain.inference_facts import (
    DeltaFacts,
    FinishedFacts,
    RunFacts,
    StartedFacts,
)


class BrokenSequenceError(Exception):
    """A worker sent what doesn't follow what the client has; tokens would be lost or repeated."""


def _no_tokens() -> "array[int]":
    return array("I")  # four bytes a token, and as many as a request may ask for


@dataclass(slots=True)
class EmittedChoice:
    """One choice. `mirostat_mu` is that after the last token."""

    token_ids: "array[int]" = field(default_factory=_no_tokens)
    mirostat_mu: float | None = None
    finished: bool = False


class Emitted:
    """Keeps up with the events on their way to the client. Owned by the call's task."""

    def __init__(self) -> None:
        self.model_digest: str | None = None
        self.cached_tokens = 0
        self._choices: dict[int, EmittedChoice] = {}
        self._says_again = False

    @classmethod
    def of_resumed(
        cls, model_digest: str, cached_tokens: int, choices: Sequence[EmittedChoice]
    ) -> Self:
        """What a client has that comes back with another call, which begins with `started` too."""
        emitted = cls()
        emitted.model_digest, emitted.cached_tokens = model_digest, cached_tokens
        emitted._choices = dict(enumerate(choices))
        emitted._says_again = True
        return emitted

    @property
    def has_begun(self) -> bool:
        """Whether the client was told that the generation started."""
        return self.model_digest is not None

    @property
    def num_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(len(choice.token_ids) for choice in self._choices.values())

    def choices(self, count: int) -> Iterator[EmittedChoice]:
        """Yields the first `count` choices, by index."""
        return (self._choices.get(index) or EmittedChoice() for index in range(count))

    def is_over(self, choice_count: int) -> bool:
        """Whether nothing is missing but the word that it is complete."""
        return self.has_begun and all(choice.finished for choice in self.choices(choice_count))

    def take(self, facts: RunFacts) -> bool:
        """Takes in an event; returns whether the client gets it, or has it already.

        Raises:
            BrokenSequenceError: it doesn't follow from what the client has.
        """
        match facts:
            case StartedFacts():
                return self._start(facts)
            case DeltaFacts():
                self._extend(self._open_choice(facts.choice_index), facts)
            case FinishedFacts():
                self._open_choice(facts.choice_index).finished = True
        return True

    def _start(self, facts: StartedFacts) -> bool:
        if self.model_digest is None:
            self.model_digest, self.cached_tokens = facts.model_digest, facts.cached_tokens
            return True
        if facts.model_digest != self.model_digest:
            raise BrokenSequenceError("another model went on")
        is_news, self._says_again = self._says_again, False
        return is_news

    def _extend(self, choice: EmittedChoice, facts: DeltaFacts) -> None:
        if facts.token_offset != len(choice.token_ids):
            raise BrokenSequenceError(
                f"token {facts.token_offset} came where {len(choice.token_ids)} was next"
            )
        choice.token_ids.extend(facts.token_ids)
        choice.mirostat_mu = facts.mirostat_mu

    def _open_choice(self, index: int) -> EmittedChoice:
        choice = self._choices.setdefault(index, EmittedChoice())
        if choice.finished:
            raise BrokenSequenceError("a choice went on after its end")
        return choice
