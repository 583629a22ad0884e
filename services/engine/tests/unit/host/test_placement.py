import pytest

from caravan_engine.domain.errors import ModelTooLargeError
from caravan_engine.host.errors import NoFreePortError
from caravan_engine.host.placement import MemoryBudget, MemoryNeed, WorkerPorts


def test_a_model_that_does_not_fit_is_refused_with_both_sizes():
    budget = MemoryBudget(100)

    with pytest.raises(ModelTooLargeError) as refused:
        budget.reserve("large", MemoryNeed(101))

    assert refused.value.metadata == {"needed_bytes": "101", "budget_bytes": "100"}
    assert budget.free_bytes == 100


def test_models_share_the_budget():
    budget = MemoryBudget(100)
    budget.reserve("a", MemoryNeed(60))

    with pytest.raises(ModelTooLargeError) as refused:
        budget.reserve("b", MemoryNeed(50))

    assert refused.value.metadata["budget_bytes"] == "40"
    budget.release("a")
    budget.reserve("b", MemoryNeed(50))
    assert budget.free_bytes == 50


@pytest.mark.parametrize(("wanted", "granted"), [(0, 0), (20, 20), (21, 20), (1000, 20)], ids=str)
def test_pages_get_at_most_half_of_what_a_model_leaves(wanted, granted):
    budget = MemoryBudget(100)

    assert budget.reserve("a", MemoryNeed(60, wanted)) == granted
    assert budget.free_bytes == 100 - 60 - granted


def test_pages_shrink_to_nothing_before_a_model_is_refused():
    budget = MemoryBudget(100)

    assert budget.reserve("a", MemoryNeed(100, 1000)) == 0
    assert budget.free_bytes == 0


def test_a_second_reservation_replaces_the_first():
    budget = MemoryBudget(100)
    budget.reserve("a", MemoryNeed(60))
    budget.reserve("a", MemoryNeed(90))

    assert budget.free_bytes == 10


def test_a_refused_reservation_keeps_the_one_before():
    budget = MemoryBudget(100)
    budget.reserve("a", MemoryNeed(60))
    with pytest.raises(ModelTooLargeError):
        budget.reserve("a", MemoryNeed(101))

    assert budget.free_bytes == 40


def test_workers_get_the_lowest_free_ports():
    ports = WorkerPorts(50060, lambda port: port != 50061)

    assert [ports.take(name) for name in ("a", "b", "c")] == [50060, 50062, 50063]


def test_a_restarted_worker_gets_its_port_again():
    ports = WorkerPorts(50060, lambda _port: True)
    ports.take("a")
    ports.take("b")
    ports.give_back("a")

    assert ports.take("b") == 50061


def test_a_restarted_worker_moves_when_its_port_was_taken_meanwhile():
    free = {50060, 50061, 50062}
    ports = WorkerPorts(50060, lambda port: port in free)
    ports.take("a")
    free.discard(50060)

    assert ports.take("a") == 50061


def test_without_a_base_workers_choose_themselves():
    assert WorkerPorts(0, lambda _port: False).take("a") == 0


def test_when_no_port_is_free_that_is_said():
    with pytest.raises(NoFreePortError):
        WorkerPorts(50060, lambda _port: False).take("a")
