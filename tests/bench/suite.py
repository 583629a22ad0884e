"""What `make bench` measures: each workload with its servers and what is aimed at."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import workloads
from deaths import PAGES_ON_DISK, death_figures
from drains import drain_figures
from gateway_costs import gateway_costs
from page_store import page_store_figures
from report import Bound, Figure, Measured, Target
from servers import Caravan, LlamaServer, Running, Server, Shape
from workloads import Workload

CARAVAN, WORKER = "caravan", "caravan worker, direct"
UNIFIED, DEFAULT = "llama-server --kv-unified", "llama-server"
FOUR_SLOTS = "llama-server -np 4"
OWN_BATCH = "llama-server -b 2048"
JOURNALLED, UNJOURNALLED = "caravan, journal and checkpoints", "caravan, nothing on disk"
PAGED, UNPAGED = "caravan --paged-kv", "caravan --no-paged-kv"


class FiguresOfServers(Protocol):
    """Measures single figures on servers that have just run a workload."""

    def __call__(
        self, servers: Sequence[Running], measured: Sequence[Measured], *, is_quick: bool
    ) -> Iterator[Figure]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A workload, the servers that run it in alternation, and what is aimed at."""

    name: str
    workload: Workload
    servers: tuple[Server, ...]
    versus: str  # the source that the table's ratios refer to
    targets: tuple[Target, ...] = ()
    preparation: Workload | None = None
    figures: FiguresOfServers | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """Single figures that need no servers."""

    name: str
    figures: Callable[[], Iterator[Figure]]


def _at_least(value: float, figure: str, versus: str | None, source: str = CARAVAN) -> Target:
    return Target(figure=figure, bound=Bound.AT_LEAST, value=value, source=source, versus=versus)


def _at_most(value: float, figure: str, versus: str | None, source: str = CARAVAN) -> Target:
    return Target(figure=figure, bound=Bound.AT_MOST, value=value, source=source, versus=versus)


_SMALL = Shape(seats=8, cells=4096)
_SIXTEEN = Shape(seats=16, cells=10_240)
_CROWDED = Shape(seats=16, cells=2048)
_MIXED = Shape(seats=9, cells=8192)
_MIXED_EACH = Shape(seats=9, cells=9 * 4352)  # each slot has room for the long prompt


def _three(shape: Shape, *, caches_prompts: bool) -> tuple[Server, ...]:
    return (
        Caravan(name=CARAVAN, shape=shape),
        LlamaServer(name=UNIFIED, shape=shape, is_unified=True, caches_prompts=caches_prompts),
        LlamaServer(name=DEFAULT, shape=shape, caches_prompts=caches_prompts),
    )


ONE_CLIENT = Experiment(
    name="one-client",
    workload=workloads.ONE_CLIENT,
    servers=_three(_SMALL, caches_prompts=False),
    versus=UNIFIED,
    targets=(_at_least(0.97, "tokens_per_s", UNIFIED),),
)
DISTINCT = Experiment(
    name="distinct",
    workload=workloads.DISTINCT,
    servers=_three(_SMALL, caches_prompts=False),
    versus=UNIFIED,
    targets=(
        _at_least(0.97, "tokens_per_s", UNIFIED),
        _at_least(0.93, "tokens_per_s", DEFAULT),
        _at_most(1.0, "ttft_p50_s", UNIFIED),
    ),
)
SHARED_PREFIX = Experiment(
    name="shared-prefix",
    workload=workloads.SHARED_PREFIX,
    servers=_three(_SIXTEEN, caches_prompts=True),
    versus=DEFAULT,
    targets=(
        _at_least(4.3, "tokens_per_s", DEFAULT),
        _at_most(1 / 5, "ttft_p50_s", DEFAULT),
    ),
)
SESSIONS = Experiment(
    name="sessions",
    workload=workloads.SESSIONS,
    servers=_three(_SMALL, caches_prompts=True),
    versus=DEFAULT,
    targets=(
        _at_least(1.1, "tokens_per_s", DEFAULT),
        _at_most(0.8, "ttft_p95_s", DEFAULT),
    ),
)
OVERLOAD = Experiment(
    name="overload",
    workload=workloads.OVERLOAD,
    servers=(
        Caravan(name=CARAVAN, shape=_CROWDED),
        LlamaServer(name=UNIFIED, shape=_CROWDED, is_unified=True),
        LlamaServer(name=FOUR_SLOTS, shape=Shape(seats=4, cells=_CROWDED.cells)),
    ),
    versus=FOUR_SLOTS,
    targets=(
        _at_least(16, "num_completed", None),
        _at_least(128, "least_tokens", None),
        _at_most(1.0, "wall_s", FOUR_SLOTS),
        _at_least(1.0, "tokens_per_s", FOUR_SLOTS),
    ),
)
LONG_PROMPT = Experiment(
    name="long-prompt",
    workload=workloads.LONG_PROMPT,
    servers=(
        Caravan(name=CARAVAN, shape=_MIXED),
        LlamaServer(name=UNIFIED, shape=_MIXED, is_unified=True),
        LlamaServer(name=DEFAULT, shape=_MIXED_EACH),
        LlamaServer(name=OWN_BATCH, shape=_MIXED_EACH, extra_flags=("-b", "2048")),
    ),
    versus=OWN_BATCH,
    targets=(
        _at_most(1 / 20, "longest_gap_s", OWN_BATCH),
        _at_most(1.1, "wall_s", OWN_BATCH),
    ),
)
GATEWAY = Experiment(
    name="gateway",
    workload=workloads.DISTINCT,
    servers=(Caravan(name=CARAVAN, shape=_SMALL, also_direct=WORKER),),
    versus=WORKER,
    figures=gateway_costs,
)

# Only paged memory has a side context, which would hide what pages cost.
_ONLY_PAGES = {
    "CARAVAN_ENGINE__KV__PAGED": "true",
    "CARAVAN_ENGINE__CONTEXT__SIDE_CONTEXT": "false",
}
_PAGED_OR_NOT: tuple[Server, ...] = (
    Caravan(name=PAGED, shape=_SMALL, settings=_ONLY_PAGES),
    Caravan(name=UNPAGED, shape=_SMALL, settings={"CARAVAN_ENGINE__KV__PAGED": "false"}),
)
PAGING_COST = Experiment(
    name="paging-cost",
    workload=workloads.DISTINCT,
    servers=_PAGED_OR_NOT,
    versus=UNPAGED,
    targets=(_at_least(0.99, "tokens_per_s", UNPAGED, PAGED),),
)
PAGING_COST_FULL = Experiment(
    name="paging-cost-full",
    workload=workloads.DISTINCT,
    servers=_PAGED_OR_NOT,
    versus=UNPAGED,
    targets=(_at_least(0.99, "tokens_per_s", UNPAGED, PAGED),),
    preparation=workloads.HUNDRED_PROMPTS,
    figures=page_store_figures,
)

JOURNAL = Experiment(
    name="journal",
    workload=workloads.DISTINCT,
    servers=(
        Caravan(name=JOURNALLED, shape=_SMALL, settings=PAGES_ON_DISK, is_resumable=True),
        Caravan(name=UNJOURNALLED, shape=_SMALL, is_resumable=True),
    ),
    versus=UNJOURNALLED,
    targets=(_at_least(0.99, "tokens_per_s", UNJOURNALLED, JOURNALLED),),
)
FAILOVER = Inspection("failover", death_figures)
DRAIN = Inspection("drain", drain_figures)


def _page_moves() -> Iterator[Figure]:
    from page_moves import page_moves  # loads llama.cpp into this process: only when it's wanted

    yield from page_moves()


PAGE_MOVES = Inspection("page-moves", _page_moves)

SUITE: tuple[Experiment | Inspection, ...] = (
    *(ONE_CLIENT, DISTINCT, SHARED_PREFIX, SESSIONS, OVERLOAD, LONG_PROMPT),
    *(GATEWAY, PAGING_COST, PAGING_COST_FULL, PAGE_MOVES, JOURNAL, FAILOVER, DRAIN),
)
