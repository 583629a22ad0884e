from pathlib import Path

import pytest

from caravan_engine.host.errors import UnknownModelError
from caravan_engine.host.registry import ModelFile, Registry


def file(name, folder="models"):
    return ModelFile(name, Path(f"/{folder}/{name}.gguf"))


def test_the_first_source_that_has_a_name_keeps_it():
    registry = Registry([lambda: [file("a", "first")], lambda: [file("a", "second")]], {})

    assert registry.scan().resolve("a").path == Path("/first/a.gguf")


def test_an_alias_leads_to_the_file_whatever_it_is_called():
    registry = Registry([lambda: [file("tiny-v2")]], {"bundled": Path("/models/tiny-v2.gguf")})
    catalogue = registry.scan()

    assert catalogue.resolve("bundled").name == "tiny-v2"
    assert catalogue.aliases_of("tiny-v2") == ("bundled",)


def test_an_alias_gives_way_to_a_model_of_that_name():
    registry = Registry([lambda: [file("a"), file("b")]], {"a": Path("/models/b.gguf")})
    catalogue = registry.scan()

    assert catalogue.resolve("a").name == "a"
    assert catalogue.aliases_of("b") == ()


def test_an_alias_of_a_missing_file_leads_nowhere():
    registry = Registry([list], {"bundled": Path("/models/x.gguf")})

    with pytest.raises(UnknownModelError):
        registry.scan().resolve("bundled")


def test_models_are_ordered_by_name():
    registry = Registry([lambda: [file("b"), file("a")]], {})

    assert list(registry.scan().files) == ["a", "b"]
