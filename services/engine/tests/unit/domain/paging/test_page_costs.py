"""What moving and computing take, as it is learned."""

import pytest

from caravan_engine.domain.paging.page_costs import Pace, PageCosts


def test_an_interrupted_move_changes_little():
    pace = Pace(2e-6)
    for _ in range(20):
        pace.observe(16 * 3e-6, 16)
    pace.observe(1.0, 16)
    assert pace.s_per_token < 1.25 * 3e-6


def test_what_really_became_slower_is_learned():
    pace = Pace(2e-6)
    for _ in range(60):
        pace.observe(100 * 1e-4, 100)
    assert pace.s_per_token == pytest.approx(1e-4, rel=0.05)


def test_a_page_is_restored_when_that_is_faster_than_computing_it():
    costs = PageCosts()
    costs.stepped(0.0005, 100, is_prompt=True)  # a model that computes as fast as a disk reads
    assert costs.pays_to_import(16, 16, from_disk=False)
    assert not costs.pays_to_import(16, 16, from_disk=True)
    assert not costs.pays_to_import(1, 256, from_disk=False)


def test_a_page_is_read_from_disk_as_long_as_that_was_measured_to_be_faster():
    costs = PageCosts()
    assert costs.pays_to_import(256, 256, from_disk=True)
    for _ in range(100):
        costs.read(2.0, 256)  # computing them takes one second
    assert not costs.pays_to_import(256, 256, from_disk=True)
    assert costs.pays_to_import(256, 256, from_disk=False)


def test_a_disk_that_was_slow_for_a_time_is_tried_again():
    costs = PageCosts()
    for _ in range(100):
        costs.read(2.0, 256)
    num_left = 0
    while not costs.pays_to_import(256, 256, from_disk=True):
        num_left += 1
    assert 20 < num_left < 200


def test_without_learning_nothing_changes_what_pays():
    costs = PageCosts(learns=False)
    costs.read(2.0, 1)
    for _ in range(1000):
        assert not costs.pays_to_import(1, 256, from_disk=True)
    assert costs.pays_to_import(256, 256, from_disk=True)
