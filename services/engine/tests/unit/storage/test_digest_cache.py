from dataclasses import replace
from pathlib import Path

import pytest

from caravan_engine.host.registry import ModelFile
from caravan_engine.storage.digest_cache import DigestCache

MODEL = ModelFile("a", Path("/models/a.gguf"), size_bytes=10, modified_ns=1)
DIGEST = "d" * 64


def test_a_digest_survives_a_restart(tmp_path):
    DigestCache(tmp_path / "digests.json").put(MODEL, DIGEST)

    assert DigestCache(tmp_path / "digests.json").get(MODEL) == DIGEST


@pytest.mark.parametrize(
    "other",
    [
        replace(MODEL, size_bytes=11),
        replace(MODEL, modified_ns=2),
        replace(MODEL, path=Path("/models/b.gguf")),
    ],
)
def test_another_file_has_no_digest(tmp_path, other):
    cache = DigestCache(tmp_path / "digests.json")
    cache.put(MODEL, DIGEST)

    assert cache.get(other) is None


def test_a_changed_file_replaces_its_entry(tmp_path):
    cache = DigestCache(tmp_path / "digests.json")
    cache.put(MODEL, DIGEST)
    cache.put(replace(MODEL, size_bytes=11), "e" * 64)

    assert cache.get(MODEL) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"k": 1}', '{"k": "short"}', "\x00"])
def test_a_damaged_cache_is_ignored(tmp_path, content):
    (tmp_path / "digests.json").write_text(content)
    cache = DigestCache(tmp_path / "digests.json")
    cache.put(MODEL, DIGEST)

    assert cache.get(MODEL) == DIGEST


def test_a_cache_that_cannot_be_written_still_remembers(tmp_path, caplog):
    cache = DigestCache(tmp_path / "missing" / "digests.json")
    cache.put(MODEL, DIGEST)

    assert cache.get(MODEL) == DIGEST
    assert "cannot store digests" in caplog.text
