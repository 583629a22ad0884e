from collections import Counter

import pytest

from caravan_gateway.domain.models import ModelCatalog, ModelState, Picture, ServedModel
from caravan_gateway.domain.routing import LeastLoaded, Router


@pytest.fixture
def router(make_endpoint):
    catalog = ModelCatalog(["a:1"])
    endpoints = tuple(make_endpoint(f"w{number}") for number in range(3))
    model = ServedModel("tiny", (), ModelState.READY)
    catalog.update("a:1", Picture("a", (model,), endpoints))
    return Router(catalog, LeastLoaded())


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
