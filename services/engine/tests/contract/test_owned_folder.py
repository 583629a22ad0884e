"""A folder stays as long as its owner lives, and anybody may remove it afterwards."""

import subprocess
import sys
import threading

import pytest

from caravan_engine.storage.owned_folder import OwnedFolder, is_private, remove_abandoned

_OWNER = """
import pathlib, subprocess, sys
from caravan_engine.storage.owned_folder import OwnedFolder
path = pathlib.Path(sys.argv[1])
folder = OwnedFolder(path)
folder.make()
(path / "file").write_text("")
subprocess.Popen(["cat"], stdout=subprocess.DEVNULL)  # lives as long as standard input
print("made", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder"


@pytest.fixture
def start_owner():
    """Starts another process that owns a folder with something in it."""
    owners = []

    def start(path):
        command = [sys.executable, "-c", _OWNER, str(path)]
        owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        owners.append(owner)
        assert owner.stdout.readline() == b"made\n"
        return owner

    yield start
    for owner in owners:
        owner.kill()
        owner.communicate(timeout=20)


def test_it_is_made_for_this_user_alone_and_as_often_as_needed(path):
    folder = OwnedFolder(path)
    for _ in range(2):
        folder.make()
        assert is_private(path)
        folder.remove_if_empty()
        assert not path.exists()


def test_what_has_something_in_it_stays_until_it_is_removed(path):
    folder = OwnedFolder(path)
    folder.make()
    (path / "file").write_text("")
    folder.remove_if_empty()
    assert (path / "file").exists()
    folder.remove()
    assert not path.exists()


def test_one_that_somebody_removed_is_made_again_and_owned(path):
    folder = OwnedFolder(path)
    folder.make()
    path.rmdir()
    folder.make()
    remove_abandoned([path])
    assert path.exists()


def test_one_that_was_never_made_can_be_removed(path):
    OwnedFolder(path).remove_if_empty()
    OwnedFolder(path).remove()
    assert not path.exists()


def test_a_living_owner_s_folder_stays_and_a_killed_one_s_goes(path, tmp_path, start_owner):
    other = tmp_path / "other"
    owner, _ = start_owner(path), start_owner(other)
    remove_abandoned([path, other])
    assert (path / "file").exists()
    owner.kill()
    owner.wait(timeout=20)  # what it started lives on
    remove_abandoned([path, other])
    assert not path.exists()
    assert (other / "file").exists()


def test_of_two_owners_none_removes_the_other_s(path):
    one, other = OwnedFolder(path), OwnedFolder(path)
    for folder in (one, other):
        folder.make()
    one.remove_if_empty()
    assert path.exists()
    one.remove()
    assert path.exists()
    other.remove_if_empty()
    assert not path.exists()


def test_one_just_made_is_not_taken_for_abandoned(path):
    """Others look all the time, also between its making and its locking."""
    is_over = threading.Event()

    def look():
        while not is_over.is_set():
            remove_abandoned([path])

    looking = threading.Thread(target=look)
    looking.start()
    folder = OwnedFolder(path)
    try:
        for _ in range(300):
            folder.make()
            (path / "file").write_text("")
            (path / "file").unlink()
            folder.remove()
    finally:
        is_over.set()
        looking.join()


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_what_others_could_use_is_neither_owned_nor_removed(tmp_path, path, kind):
    match kind:
        case "open":
            path.mkdir(mode=0o755)
        case "link":
            (tmp_path / "other").mkdir(mode=0o700)
            path.symlink_to(tmp_path / "other")
        case "file":
            path.write_text("")
    with pytest.raises(OSError, match=str(path)):
        OwnedFolder(path).make()
    remove_abandoned([path])
    assert path.exists()
    assert (tmp_path / "other").exists() == (kind == "link")
    assert not is_private(path)
