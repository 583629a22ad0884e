import hashlib
import os
import threading

import pytest

from caravan_engine.domain.errors import ModelFileInvalidError
from caravan_engine.host.errors import LoadAbandonedError
from caravan_engine.storage.model_files import describe, find_models, sha256_of


def never():
    return threading.Event()


def test_models_are_the_gguf_files_by_stem(tmp_path):
    (tmp_path / "b.gguf").write_bytes(b"12")
    (tmp_path / "a.gguf").write_bytes(b"1")
    (tmp_path / "notes.txt").write_bytes(b"")

    assert [(model.name, model.size_bytes) for model in find_models(tmp_path)] == [
        ("a", 1),
        ("b", 2),
    ]


def test_a_missing_directory_has_no_models(tmp_path):
    assert find_models(tmp_path / "none") == []


def test_later_parts_of_a_split_model_are_not_models(tmp_path):
    for part in (1, 2):
        (tmp_path / f"big-0000{part}-of-00002.gguf").write_bytes(b"")

    assert [model.name for model in find_models(tmp_path)] == ["big-00001-of-00002"]


def test_a_name_that_cannot_travel_is_left_out(tmp_path):
    (tmp_path / os.fsdecode(b"bad\xff.gguf")).write_bytes(b"")
    (tmp_path / "line\nbreak.gguf").write_bytes(b"")

    assert find_models(tmp_path) == []


def test_a_link_out_of_the_directory_is_followed_under_its_own_name(tmp_path):
    target = tmp_path / "elsewhere.bin"
    target.write_bytes(b"1234")
    models = tmp_path / "models"
    models.mkdir()
    (models / "linked.gguf").symlink_to(target)

    (model,) = find_models(models)

    assert (model.name, model.path, model.size_bytes, model.fault) == ("linked", target, 4, None)


@pytest.mark.parametrize("target", ["gone.gguf", "circle.gguf"])
def test_a_link_that_leads_nowhere_is_listed_with_its_fault(tmp_path, target):
    (tmp_path / "circle.gguf").symlink_to(tmp_path / target)

    (model,) = find_models(tmp_path)

    assert model.fault == "is a link that leads nowhere"


def test_a_directory_is_no_model(tmp_path):
    (tmp_path / "folder.gguf").mkdir()

    assert find_models(tmp_path)[0].fault == "is not a regular file"


def test_a_missing_file_is_described_with_its_fault(tmp_path):
    assert describe(tmp_path / "none.gguf").fault == "does not exist"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_listed_with_its_fault(tmp_path):
    (tmp_path / "secret.gguf").write_bytes(b"")
    (tmp_path / "secret.gguf").chmod(0)

    assert "cannot be read" in find_models(tmp_path)[0].fault


def test_the_digest_is_that_of_the_whole_file_with_progress(tmp_path):
    content = bytes(5 * 2**20)
    (tmp_path / "a.gguf").write_bytes(content)
    progress = []

    digest = sha256_of(describe(tmp_path / "a.gguf"), progress.append, never())

    assert digest == hashlib.sha256(content).hexdigest()
    assert progress == sorted(progress)
    assert progress[-1] == 1.0


def test_an_empty_file_has_a_digest(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"")

    assert sha256_of(describe(tmp_path / "a.gguf"), print, never()) == hashlib.sha256().hexdigest()


def test_hashing_stops_when_abandoned(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"x")
    abandoned = threading.Event()
    abandoned.set()

    with pytest.raises(LoadAbandonedError):
        sha256_of(describe(tmp_path / "a.gguf"), print, abandoned)


def test_a_file_that_vanishes_or_changes_before_it_is_read_is_refused(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"1234")
    model = describe(path)
    path.write_bytes(b"12345")
    with pytest.raises(ModelFileInvalidError, match="changed"):
        sha256_of(model, print, never())

    path.unlink()
    with pytest.raises(ModelFileInvalidError, match="cannot be read"):
        sha256_of(model, print, never())
