"""How many tokens of prompts a step has where more than enough compute no faster."""

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.scheduling.batch_policy import DecodeFirst


@pytest.fixture
def rig(make_rig):
    policy = DecodeFirst(tile=8, enough_tokens=32)
    return make_rig(FakeBackend(num_cells=512), batch_policy=policy, num_seats=8, token_budget=64)


def steps(rig, num):
    """The tokens that the chunks of the next steps have."""
    return [[len(each.tokens) for each in rig.step().chunks] for _ in range(num)]


def test_a_prompt_is_not_cut_for_want_of_room_beside_another(rig):
    first, second, third = (
        rig.submit(bytes([97 + number]) * length, max_output=3)
        for number, length in enumerate((24, 20, 8))
    )
    chunks = [[(each.seq_id, len(each.tokens)) for each in rig.step().chunks] for _ in range(2)]
    assert chunks[0] == [(first.seat, 24), (third.seat, 8)]
    assert (second.seat, 20) in chunks[1]
    rig.complete(first, second, third)


def test_a_prompt_that_is_longer_than_a_step_is_cut(rig):
    first, second = (rig.submit(letter * 80, max_output=3) for letter in (b"f", b"s"))
    chunks = [[(each.seq_id, len(each.tokens)) for each in rig.step().chunks] for _ in range(2)]
    assert chunks == [[(first.seat, 64)], [(first.seat, 16)]]
    rig.complete(first, second)


def test_those_who_decode_wait_as_long_as_for_a_full_step(rig):
    decoding = rig.submit(b"d" * 10, max_output=9)
    rig.step()
    prompts = [rig.submit(bytes([101 + number]) * 30, max_output=3) for number in range(4)]
    assert steps(rig, 6) == [[30], [30], [1, 1, 1], [30], [30], [1] * 5]
    rig.complete(decoding, *prompts)


def test_full_steps_and_decoding_alternate(rig):
    decoding = rig.submit(b"d" * 10, max_output=9)
    rig.step()
    prompts = [rig.submit(bytes([101 + number]) * 60, max_output=3) for number in range(2)]
    assert steps(rig, 4) == [[60], [1, 1], [60], [1, 1, 1]]
    rig.complete(decoding, *prompts)


def test_what_is_enough_doesn_t_keep_one_prompt_from_a_whole_step(rig):
    prompt = rig.submit(b"p" * 60, max_output=3)
    assert steps(rig, 1) == [[60]]
    rig.complete(prompt)


def test_without_a_measure_of_enough_a_step_is_filled(make_rig):
    rig = make_rig(FakeBackend(num_cells=512), num_seats=8, token_budget=64)
    prompts = [rig.submit(bytes([101 + number]) * 30, max_output=3) for number in range(3)]
    assert steps(rig, 1) == [[30, 30, 4]]
    rig.complete(*prompts)
