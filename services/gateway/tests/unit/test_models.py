import pytest

from caravan_gateway.domain.errors import (
    DependencyUnavailableError,
    ModelDrainingError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    ModelNotLoadedError,
    WorkerDiedError,
)
from caravan_gateway.domain.models import ModelCatalog, ModelState, Picture, ServedModel


def _model(name, state=ModelState.READY, aliases=(), restarting=False):
    return ServedModel(name, aliases, state, restarting)


@pytest.fixture
def catalog():
    return ModelCatalog(["a:1", "b:1"])


def test_names_come_before_aliases(catalog):
    catalog.update("a:1", Picture("a", (_model("x", aliases=("tiny",)),)))
    catalog.update("b:1", Picture("b", (_model("tiny"),)))
    assert catalog.resolve("tiny") == "tiny"
    assert catalog.resolve("x") == "x"
    assert catalog.resolve("nope") is None


def test_an_unknown_name_is_judged_once_every_host_was_heard(catalog):
    catalog.update("a:1", Picture("a"))
    with pytest.raises(DependencyUnavailableError):
        catalog.find("tiny")
    catalog.update("b:1", Picture("b"))
    with pytest.raises(ModelNotFoundError):
        catalog.find("tiny")
    catalog.lose("b:1")
    with pytest.raises(ModelNotFoundError):
        catalog.find("tiny")


def test_workers_of_unreachable_hosts_are_the_last_resort(catalog, make_endpoint):
    here, there = make_endpoint("w1"), make_endpoint("w2")
    catalog.update("a:1", Picture("a", (_model("tiny"),), (here,)))
    catalog.update("b:1", Picture("b", (_model("tiny"),), (there,)))
    assert catalog.endpoints_of("tiny") == (here, there)
    catalog.lose("a:1")
    assert catalog.endpoints_of("tiny") == (there,)
    catalog.lose("b:1")
    assert catalog.endpoints_of("tiny") == (here, there)
    assert catalog.num_connected_hosts == 0


@pytest.mark.parametrize(
    ("models", "error"),
    [
        ((_model("tiny", ModelState.UNLOADED),), ModelNotLoadedError),
        ((_model("tiny", ModelState.LOADING),), ModelLoadingError),
        ((_model("tiny", ModelState.READY),), ModelLoadingError),
        ((_model("tiny", ModelState.DRAINING),), ModelDrainingError),
        ((_model("tiny", ModelState.FAILED),), ModelFailedError),
        ((_model("tiny", ModelState.LOADING, restarting=True),), WorkerDiedError),
        (
            (_model("tiny", ModelState.FAILED), _model("tiny", ModelState.LOADING)),
            ModelLoadingError,
        ),
    ],
)
def test_without_workers_the_state_says_why(catalog, models, error):
    for address, model in zip(("a:1", "b:1"), models, strict=False):
        catalog.update(address, Picture(address, (model,)))
    with pytest.raises(error) as caught:
        catalog.endpoints_of("tiny")
    assert caught.value.metadata == {"model": "tiny"}


def test_a_host_that_knows_the_model_is_asked_about_it(catalog):
    with pytest.raises(DependencyUnavailableError):
        catalog.host_of("tiny")
    catalog.update("a:1", Picture("a"))
    catalog.update("b:1", Picture("b", (_model("tiny", aliases=("t",)),)))
    assert catalog.host_of("tiny") == catalog.host_of("t") == "b:1"
    assert catalog.host_of("other") == "a:1"
    catalog.lose("a:1")
    assert catalog.host_of("other") == "b:1"


def test_of_hosts_that_know_the_model_one_that_has_it_loaded_is_asked(catalog):
    catalog.update("a:1", Picture("a", (_model("tiny", state=ModelState.UNLOADED),)))
    assert catalog.host_of("tiny") == "a:1"
    catalog.update("b:1", Picture("b", (_model("tiny", state=ModelState.READY),)))
    assert catalog.host_of("tiny") == "b:1"
    catalog.lose("b:1")
    assert catalog.host_of("tiny") == "a:1"


def test_the_last_word_of_a_host_that_ended_is_not_believed(catalog):
    catalog.update("a:1", Picture("a", (_model("tiny", ModelState.UNLOADED),)))
    catalog.lose("a:1")
    with pytest.raises(DependencyUnavailableError):
        catalog.endpoints_of("tiny")


def test_a_host_that_shuts_down_has_not_unloaded_its_models(catalog):
    catalog.update("a:1", Picture("a"))
    for state in (ModelState.DRAINING, ModelState.UNLOADED):
        catalog.update("b:1", Picture("b", (_model("tiny", state),), leaving=True))
        with pytest.raises(DependencyUnavailableError):
            catalog.endpoints_of("tiny")


def test_what_another_host_says_of_a_model_counts_more_than_one_that_shuts_down(catalog):
    catalog.update("a:1", Picture("a", (_model("tiny", ModelState.FAILED),)))
    catalog.update("b:1", Picture("b", (_model("tiny", ModelState.DRAINING),), leaving=True))
    with pytest.raises(ModelFailedError):
        catalog.endpoints_of("tiny")


@pytest.mark.parametrize(
    ("state", "error"),
    [({"restarting": True}, WorkerDiedError), ({"starting": True}, ModelLoadingError)],
)
def test_whoever_must_ask_every_worker_waits_for_those_that_come(
    catalog, make_endpoint, state, error
):
    ready = make_endpoint("w1")
    model = ServedModel("tiny", (), ModelState.READY, **state)
    catalog.update("a:1", Picture("a", (model,), (ready,)))
    assert catalog.endpoints_of("tiny") == (ready,)
    with pytest.raises(error):
        catalog.all_endpoints_of("tiny")
    catalog.update("a:1", Picture("a", (_model("tiny"),), (ready,)))
    assert catalog.all_endpoints_of("tiny") == (ready,)
