import ast
from pathlib import Path

import pytest

import caravan_client
from caravan_client import Caravan, Sampling
from caravan_client.connection import Connection
from caravan_client.keywords import call_options
from caravan_client.operations import inference


def test_what_type_checkers_see_is_what_can_be_loaded():
    tree = ast.parse(Path(caravan_client.__file__).read_text())
    seen = {
        alias.name: node.module.rpartition(".")[2]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("caravan_client.")
        for alias in node.names
    }
    assert sorted(seen) == sorted(caravan_client.__all__)
    for name, module in seen.items():
        assert getattr(caravan_client, name) is getattr(getattr(caravan_client, module), name)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="Karavan"):
        caravan_client.Karavan  # noqa: B018 (the access is what is tested)


def test_mistyped_keyword_arguments_are_refused():
    with pytest.raises(TypeError, match="max_tokens"):
        inference.text_request("a", {"model": "m", "max_tokens": 3})
    with pytest.raises(TypeError, match=r"'temperature'; it belongs into sampling"):
        inference.text_request("a", {"model": "m", "temperature": 0})
    with pytest.raises(TypeError, match="missing keyword argument 'model'"):
        inference.text_request("a", {})
    with Caravan("localhost:1", api_key="k") as client, pytest.raises(TypeError, match="timeout"):
        client.status(timeout=3)
    with pytest.raises(TypeError, match="retries"):
        Caravan("localhost:1", api_key="k", retries=3)


def test_options_of_the_call_are_told_from_those_of_the_request():
    options = {"model": "m", "sampling": Sampling(), "timeout_s": None, "request_id": "r"}
    assert call_options(options) == {"timeout_s": None, "request_id": "r"}
    assert call_options({"model": "m"}) == {}
    assert Connection("localhost:1", "k").max_retries == 2
