from collections import Counter

import pytest

from caravan_gateway.domain.affinity import SESSION_SHARE, HeldPrefixes, InputMarks
from caravan_gateway.domain.circuit_breaker import CircuitBreakers
from caravan_gateway.domain.models import ModelCatalog, ModelState, Picture, ServedModel
from caravan_gateway.domain.routing import Router
from caravan_gateway.domain.routing_strategies import Adaptive

MARKS = InputMarks((1, 2, 3, 4), (0.25, 0.5, 0.75, 1.0), session=9)


@pytest.fixture
def held():
    return HeldPrefixes()


@pytest.fixture
def router(held, make_endpoint, fake_clock):
    catalog = ModelCatalog(["a:1"])
    model = ServedModel("tiny", (), ModelState.READY)
    endpoints = tuple(make_endpoint(f"w{number}") for number in range(3))
    catalog.update("a:1", Picture("a", (model,), endpoints))
    breakers = CircuitBreakers(first_rest_s=1.0, max_rest_s=30.0)
    return Router(catalog, Adaptive(4.0), breakers=breakers, clock=fake_clock, held=held)


@pytest.mark.parametrize(
    ("hashes", "share"),
    [
        ((), 0.0),
        ((1,), 0.25),
        ((4, 3, 1, 2), 1.0),
        ((2, 3, 4), 0.0),  # without the beginning the rest is of no use
        ((1, 3, 4), 0.25),
        ((9,), SESSION_SHARE),
        ((9, 1, 2, 3), 0.75),
    ],
)
def test_a_share_is_counted_from_the_beginning(held, hashes, share):
    held.heard("w1", hashes)
    assert held.share("w1", MARKS) == share
    assert held.share("w2", MARKS) == 0.0


def test_what_a_worker_says_replaces_what_it_said_before(held):
    held.heard("w1", (1, 2))
    held.heard("w1", (1,))
    assert held.share("w1", MARKS) == 0.25
    held.lost("w1")
    assert held.share("w1", MARKS) == 0.0


def test_without_a_session_none_is_found(held):
    held.heard("w1", (9,))
    assert held.share("w1", InputMarks((1,), (1.0,))) == 0.0


def taken(router, count, marks=MARKS):
    return Counter(router.lease("tiny", marks=marks).endpoint.worker_id for _ in range(count))


def test_whoever_has_most_of_an_input_takes_it(router, held):
    held.heard("w0", (1,))
    held.heard("w2", (1, 2, 3))
    lease = router.lease("tiny", marks=MARKS)
    assert lease.endpoint.worker_id == "w2"


def test_also_while_others_were_never_seen(router, held):
    held.heard("w1", (1, 2, 3, 4))
    for _ in range(10):
        lease = router.lease("tiny", marks=MARKS)
        router.worked(lease.endpoint, 0.5)
        lease.release()
        assert lease.endpoint.worker_id == "w1"


def test_a_holder_that_is_too_busy_is_passed_over(router, held):
    held.heard("w1", (1, 2, 3, 4))
    assert taken(router, 5) == {"w1": 5}  # four more than the others have
    assert taken(router, 2)["w1"] == 0
    # When all have one more, so may the holder.
    assert taken(router, 1) == {"w1": 1}


def test_for_less_of_an_input_less_imbalance_is_borne(router, held):
    held.heard("w1", (1,))
    assert taken(router, 2) == {"w1": 2}
    assert taken(router, 2)["w1"] == 0


def test_of_equal_holders_the_faster_one_is_taken(router, held):
    for worker_id in ("w0", "w1"):
        held.heard(worker_id, (1, 2))
    for _ in range(2):
        lease = router.lease("tiny", marks=MARKS)
        router.worked(lease.endpoint, 1.0 if lease.endpoint.worker_id == "w0" else 0.1)
        lease.release()
    assert router.lease("tiny", marks=MARKS).endpoint.worker_id == "w1"


def test_inputs_that_nobody_has_are_spread(router, held):
    held.heard("w1", (77, 78))
    assert set(taken(router, 9).values()) == {3}


def test_without_marks_nothing_is_preferred(router, held):
    held.heard("w1", (1, 2, 3, 4))
    assert set(taken(router, 9, None).values()) == {3}
