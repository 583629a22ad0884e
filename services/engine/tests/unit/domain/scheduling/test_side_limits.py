"""Which steps are computed apart from the cells."""

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.scheduling.batch_policy import DecodeFirst
from caravan_engine.domain.scheduling.side_limits import SideLimits
from caravan_engine.domain.step import Chunk

LIMITS = SideLimits(num_tokens=32, num_sequences=2, least_others=16)


def chunk(num_tokens, start=0, **fields):
    return Chunk(0, start, tuple(range(num_tokens)), sampler=None, **fields)


@pytest.mark.parametrize(
    ("chunks", "num_used", "is_taken"),
    [
        ([chunk(20)], 16, True),
        ([chunk(20)], 15, False),
        ([chunk(16), chunk(16)], 99, True),
        ([chunk(16), chunk(17)], 99, False),
        ([chunk(2), chunk(2), chunk(2)], 99, False),
        ([chunk(16), chunk(2, start=1)], 99, False),
        ([chunk(16), chunk(1)], 99, False),
    ],
)
def test_beginnings_that_fit_are_computed_aside_where_others_have_cells(chunks, num_used, is_taken):
    assert LIMITS.takes(chunks, num_used) is is_taken


def test_what_is_embedded_is_not():
    assert not LIMITS.takes([chunk(20, pooler=Pooler(Pooling.MEAN))], 99)


@pytest.fixture
def rig(make_rig):
    policy = DecodeFirst(tile=16, enough_tokens=32)
    return make_rig(FakeBackend(num_cells=256), batch_policy=policy, side=LIMITS)


def test_a_new_prompt_is_computed_aside_and_what_follows_is_not(rig):
    first = rig.submit(b"f" * 20, max_output=10)
    assert not rig.step().is_aside  # nobody else has cells
    second = rig.submit(b"s" * 20, max_output=10)
    plans = [rig.step() for _ in range(4)]
    aside = [plan for plan in plans if plan.is_aside]
    assert [[each.seq_id for each in plan.chunks] for plan in aside] == [[second.seat]]
    rig.complete(first, second)


def test_what_is_found_in_memory_is_continued_there(rig):
    common = bytes(range(30))
    first = rig.submit(common + b"1", max_output=20)
    rig.step()
    second = rig.submit(common + b"23", max_output=5)
    assert not any(rig.step().is_aside for _ in range(3))
    rig.complete(first, second)
