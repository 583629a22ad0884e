from collections import Counter

import pytest

from caravan_gateway.domain.circuit_breaker import CircuitBreakers
from caravan_gateway.domain.errors import WorkerDiedError
from caravan_gateway.domain.models import ModelCatalog, ModelState, Picture, ServedModel
from caravan_gateway.domain.routing import Router
from caravan_gateway.domain.routing_strategies import RoutingName, strategy_named


@pytest.fixture
def make_router(make_endpoint, fake_clock):
    def make(name=RoutingName.LEAST_LOADED, endpoints=None):
        catalog = ModelCatalog(["a:1"])
        endpoints = endpoints or [make_endpoint(f"w{number}") for number in range(3)]
        model = ServedModel("tiny", (), ModelState.READY)
        catalog.update("a:1", Picture("a", (model,), tuple(endpoints)))
        breakers = CircuitBreakers(first_rest_s=1.0, max_rest_s=30.0)
        return Router(catalog, strategy_named(name), breakers=breakers, clock=fake_clock)

    return make


@pytest.fixture
def router(make_router):
    return make_router()


def test_equal_workers_take_turns(router):
    leases = [router.lease("tiny") for _ in range(9)]
    assert set(Counter(lease.endpoint.worker_id for lease in leases).values()) == {3}


def test_the_least_loaded_worker_is_taken(router):
    leases = [router.lease("tiny") for _ in range(3)]
    leases[1].release()
    assert router.lease("tiny").endpoint == leases[1].endpoint


def test_an_idle_worker_takes_turns_too(router):
    chosen = set()
    for _ in range(6):
        lease = router.lease("tiny")
        chosen.add(lease.endpoint.worker_id)
        lease.release()
    assert len(chosen) == 3


def test_released_leases_leave_nothing(router):
    leases = [router.lease("tiny") for _ in range(5)]
    assert router.num_leases == 5
    for lease in leases:
        lease.release()
        lease.release()
    assert (router.num_leases, router.num_entries) == (0, 0)


def chosen(router, count):
    """How often each worker was taken for calls that end at once."""
    taken = Counter()
    for _ in range(count):
        lease = router.lease("tiny")
        taken[lease.endpoint.worker_id] += 1
        lease.release()
    return taken


def some_worker(router):
    lease = router.lease("tiny")
    lease.release()
    return lease.endpoint


def test_round_robin_takes_turns_however_busy_workers_are(make_router):
    router = make_router(RoutingName.ROUND_ROBIN)
    for _ in range(30):
        busy = router.lease("tiny")
        if busy.endpoint.worker_id != "w0":
            busy.release()
    assert set(chosen(router, 30).values()) == {10}


def test_adaptive_prefers_fast_workers_and_forgives_slow_ones(make_router):
    router = make_router(RoutingName.ADAPTIVE)
    for _ in range(3):  # each is tried before any is judged
        lease = router.lease("tiny")
        slow = lease.endpoint.worker_id == "w0"
        router.worked(lease.endpoint, 1.0 if slow else 0.1)
        lease.release()
    assert chosen(router, 20)["w0"] == 0
    assert chosen(router, 200)["w0"] > 0


def test_adaptive_weighs_time_against_calls_in_flight(make_router):
    router = make_router(RoutingName.ADAPTIVE)
    for _ in range(3):
        lease = router.lease("tiny")
        router.worked(lease.endpoint, 0.3 if lease.endpoint.worker_id == "w0" else 0.1)
        lease.release()
    held = Counter(router.lease("tiny").endpoint.worker_id for _ in range(10))
    assert held["w1"] + held["w2"] > held["w0"] > 0


def test_a_worker_whose_stream_broke_is_left_alone_for_a_while(router, fake_clock):
    broken = some_worker(router)
    router.broke(broken)
    router.broke(broken)  # another stream that broke with it
    assert broken.worker_id not in chosen(router, 9)
    fake_clock.advance(1.0)
    assert broken.worker_id in chosen(router, 9)


def test_breaks_in_a_row_double_the_rest_until_the_worker_works(router, fake_clock):
    broken = some_worker(router)
    for rest_s in (1.0, 2.0, 4.0):
        router.broke(broken)
        fake_clock.advance(rest_s - 0.25)
        assert broken.worker_id not in chosen(router, 9)
        fake_clock.advance(0.25)
        assert broken.worker_id in chosen(router, 9)
    router.worked(broken, 0.1)
    router.broke(broken)
    fake_clock.advance(1.0)
    assert broken.worker_id in chosen(router, 9)


def test_without_a_worker_that_may_be_tried_the_worker_counts_as_dead(make_router, make_endpoint):
    router = make_router(endpoints=[make_endpoint("w1")])
    router.broke(make_endpoint("w1"))
    with pytest.raises(WorkerDiedError):
        router.lease("tiny")


def test_a_digest_that_matters_is_asked_for(make_router, make_endpoint):
    router = make_router(endpoints=[make_endpoint("w1"), make_endpoint("w2", model_digest="d2")])
    assert {router.lease("tiny", "d2").endpoint.worker_id for _ in range(5)} == {"w2"}
    with pytest.raises(WorkerDiedError):
        router.lease("tiny", "d3")


def test_breakers_forget_processes_that_are_gone():
    breakers = CircuitBreakers(first_rest_s=1.0, max_rest_s=30.0)
    for second in range(0, 1000, 10):
        breakers.broke(f"w{second}", float(second))
    assert len(breakers) <= 5
