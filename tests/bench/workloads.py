"""What is asked of a server: which clients come when, and how many tokens each brings and wants.

Declarations only, and the prompts that follow from them. The same seed gives the same prompts, so
all servers of a round see the same.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

VOCABULARY = 32_000
FIRST_ORDINARY_TOKEN = 300  # below are the control and byte tokens of the generated vocabulary


@dataclass(frozen=True, slots=True)
class Turn:
    """One call: tokens that are new in the prompt, tokens wanted."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """`count` clients that do the same, with tokens of their own.

    A prompt is the whole conversation so far, answers included, and the new tokens of the turn.
    """

    count: int
    turns: tuple[Turn, ...]
    shared_tokens: int = 0  # the first tokens of each conversation, the same for all
    delay_s: float = 0.0  # after the start of the run
    are_watched: bool = True  # whether gaps between their tokens count


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one run consists of."""

    name: str
    clients: tuple[Clients, ...]
    limit_s: float  # a run that takes longer has failed
    may_fail: bool = False  # failed calls and cut answers are a result, not an error

    @property
    def num_calls(self) -> int:
        """Calls of all clients together."""
        return sum(each.count * len(each.turns) for each in self.clients)


@dataclass(frozen=True, slots=True)
class Script:
    """What one client does: new tokens and the number of wanted ones, turn by turn."""

    turns: tuple[tuple[tuple[int, ...], int], ...]
    delay_s: float
    is_watched: bool
    session_id: str | None


def scripts(workload: Workload, seed: int) -> list[Script]:
    """Returns one script per client."""
    return list(_scripts(workload, random.Random(seed), seed))


def _scripts(workload: Workload, generator: random.Random, seed: int) -> Iterator[Script]:
    for group, clients in enumerate(workload.clients):
        shared = _tokens(generator, clients.shared_tokens)
        for number in range(clients.count):
            turns = [(_tokens(generator, t.input_tokens), t.output_tokens) for t in clients.turns]
            turns[0] = ((*shared, *turns[0][0]), turns[0][1])
            is_conversation = len(turns) > 1
            session_id = f"bench-{seed}-{group}-{number}" if is_conversation else None
            yield Script(tuple(turns), clients.delay_s, clients.are_watched, session_id)


def _tokens(generator: random.Random, count: int) -> tuple[int, ...]:
    return tuple(generator.randrange(FIRST_ORDINARY_TOKEN, VOCABULARY) for _ in range(count))


def _single(count: int, input_tokens: int, output_tokens: int) -> Clients:
    return Clients(count=count, turns=(Turn(input_tokens, output_tokens),))


WARM_UP = Workload(name="warm-up", clients=(_single(1, 64, 16),), limit_s=120)
ONE_CLIENT = Workload(name="one client alone", clients=(_single(1, 64, 128),), limit_s=120)
DISTINCT = Workload(name="distinct", clients=(_single(8, 256, 32),), limit_s=180)
SHARED_PREFIX = Workload(
    name="shared prefix",
    clients=(Clients(count=16, shared_tokens=512, turns=(Turn(32, 32),)),),
    limit_s=400,
)
SESSIONS = Workload(
    name="sessions",
    clients=(Clients(count=12, turns=(Turn(224, 16), Turn(24, 16), Turn(24, 16))),),
    limit_s=300,
)
OVERLOAD = Workload(name="overload", clients=(_single(16, 384, 128),), limit_s=500, may_fail=True)
LONG_PROMPT = Workload(
    name="long prompt among chats",
    clients=(
        _single(8, 32, 160),
        Clients(count=1, turns=(Turn(4096, 16),), delay_s=3.0, are_watched=False),
    ),
    limit_s=500,
)
HUNDRED_PROMPTS = Workload(
    name="a hundred finished prompts", clients=(_single(100, 256, 1),), limit_s=500
)
