"""What one worker leaves of a request, another one takes whole or not at all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from caravan_engine.domain.paging.page_image import root_key
from caravan_engine.handover_settings import HandoverSettings
from caravan_engine.storage import handover_folder
from caravan_engine.storage.handover_folder import (
    HandoverFolder,
    handover_directories,
    handover_directory,
    handover_name,
)
from caravan_engine.storage.page_files import Codec, PagePacker

_CONFTEST = str(Path(__file__).with_name("conftest.py"))
_PUT_WITH_A_LIMIT = """
import importlib.util, pathlib, resource, sys
from caravan_engine.storage.handover_folder import HandoverFolder
from caravan_engine.storage.page_files import Codec, PagePacker
spec = importlib.util.spec_from_file_location("tier", sys.argv[1])
tier = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tier)
pages = tier.Pages()
first = pages.image(data=bytes(100))
chain = [first, pages.image(data=bytes(8000), after=first)]
packer = PagePacker(pages.identity, Codec.NONE)
folder = HandoverFolder(pathlib.Path(sys.argv[2]), packer, pages.identity, 10**9)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
print(folder.put("request", chain), len(folder.take("request", first.info.root)))
"""


@pytest.fixture
def make_folder(tmp_path, pages):
    """The folder as one worker after the other sees it."""

    def make(directory=tmp_path, *, identity=pages.identity, budget_bytes=10**9, **options):
        packer = PagePacker(identity, Codec.NONE)
        return HandoverFolder(directory, packer, identity, budget_bytes, **options)

    return make


@pytest.fixture
def root(pages):
    return pages.image().info.root


def files(tmp_path):
    return sorted(path for path in tmp_path.glob("*/*/*"))


def test_another_worker_takes_what_was_left_and_nothing_stays(make_folder, tmp_path, pages, root):
    chain = pages.chain(3)
    assert make_folder().put("request", chain) == 3
    assert make_folder().take("request", root) == chain
    assert make_folder().take("request", root) == []
    assert files(tmp_path) == []


def test_each_request_has_its_own_pages_and_shares_the_others(make_folder, tmp_path, pages, root):
    chain = pages.chain(2)
    folder = make_folder()
    other = [chain[0], pages.image(after=chain[0])]
    folder.put("one", chain)
    folder.put("other", other)
    assert len({path.stat().st_ino for path in files(tmp_path)}) == 3
    assert make_folder().take("one", root) == chain
    folder.put("third", chain)  # the first one's are gone
    assert make_folder().take("other", root) == other
    assert make_folder().take("third", root) == chain


def test_choices_that_part_ways_come_together(make_folder, pages, root):
    first = pages.image()
    images = [first, pages.image(after=first), pages.image(after=first)]
    make_folder().put("request", images)
    taken = make_folder().take("request", root)
    assert taken[0] == first
    assert {each.info.key for each in taken} == {each.info.key for each in images}


def test_of_two_workers_the_later_one_counts(make_folder, pages, root):
    make_folder().put("request", pages.chain(1))
    chain = pages.chain(2)
    make_folder().put("request", chain)
    assert make_folder().take("request", root) == chain


def test_what_exceeds_the_budget_is_left_out(make_folder, tmp_path, pages, root):
    chain = pages.chain(3)
    make_folder().put("request", chain[:1])
    [size] = [path.stat().st_size for path in files(tmp_path)]
    folder = make_folder(budget_bytes=3 * size + 1)
    assert folder.put("another", chain) == 2  # beside what lies there already
    assert make_folder().take("another", root) == chain[:2]
    make_folder().take("request", root)
    assert folder.put("another", chain) == 3


@pytest.mark.parametrize("kind", ["memory", "header", "short", "pipe", "link", "gone", "renamed"])
def test_what_is_damaged_and_what_follows_it_is_not_taken(make_folder, tmp_path, pages, root, kind):
    chain = pages.chain(3)
    make_folder().put("request", chain)
    [path] = tmp_path.glob(f"*/request/{chain[1].info.key.hex()}.page")
    content = bytearray(path.read_bytes())
    path.unlink()
    match kind:
        case "memory":
            content[-1] ^= 1
            path.write_bytes(content)
        case "header":
            path.write_bytes(b"x" + content[1:])
        case "short":
            path.write_bytes(content[:-1])
        case "pipe":
            os.mkfifo(path)
        case "link":
            other = tmp_path / "other"
            other.write_bytes(content)
            path.symlink_to(other)
        case "renamed":
            path.with_stem("0" * 32).write_bytes(content)

    assert make_folder().take("request", root) == chain[:1]
    assert files(tmp_path) == []


def test_pages_of_another_tenant_are_not_taken(make_folder, pages, root):
    make_folder().put("request", [pages.image(tenant="other")])
    assert make_folder().take("request", root) == []


def test_those_of_another_model_are_not_found(make_folder, pages, root):
    make_folder().put("request", pages.chain(1))
    other = make_folder(identity=pages.identity.__class__("e" * 64, b"", "f16", "f16", 16))
    assert other.take("request", root) == []


def test_a_page_that_is_damaged_in_memory_is_not_left(make_folder, pages, root):
    chain = pages.chain(2)
    object.__setattr__(chain[1], "checksum", 0)
    assert make_folder().put("request", chain) == 1
    assert make_folder().take("request", root) == chain[:1]


def test_a_folder_that_is_gone_loses_everything(make_folder, tmp_path, pages, root):
    folder = make_folder()
    shutil.rmtree(tmp_path)
    assert folder.put("request", pages.chain(1)) == 0
    assert folder.take("request", root) == []


def test_what_can_no_longer_be_written_ends_what_is_left(tmp_path):
    """Like a full disk: files can't grow."""
    command = [sys.executable, "-c", _PUT_WITH_A_LIMIT, _CONFTEST, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
    assert files(tmp_path) == []


def test_a_tenant_s_pages_are_erased_and_no_others(make_folder, tmp_path, pages, root):
    other = pages.image(tenant="other")
    chain = pages.chain(2)
    folder = make_folder()
    folder.put(handover_name(root, "request"), chain)
    folder.put(handover_name(other.info.root, "request"), [other])
    make_folder().erase(root)
    assert [path.stem for path in files(tmp_path)] == [other.info.key.hex()]


@pytest.mark.parametrize("kind", ["open", "link", "missing"])
def test_a_place_that_others_could_use_is_neither_written_nor_read_nor_erased(
    make_folder, tmp_path, pages, root, kind
):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    name = handover_name(root, "request")
    assert make_folder(private, is_private=True).put(name, pages.chain(1)) == 1
    place = tmp_path / "place"
    match kind:
        case "open":
            place = private
            private.chmod(0o755)
        case "link":
            place.symlink_to(private)
    folder = make_folder(place, is_private=True)
    assert folder.put(handover_name(root, "other"), pages.chain(1)) == 0
    assert folder.take(name, root) == []
    folder.erase(root)
    assert len(list(private.glob("*/*"))) == 1
    assert place.exists() == (kind != "missing")


def test_by_default_pages_are_left_in_shared_memory_and_nowhere_without(tmp_path, monkeypatch):
    monkeypatch.setattr(handover_folder, "SHARED_MEMORY", tmp_path)
    one, other = (handover_directory(HandoverSettings(), tmp_path / name) for name in "ab")
    assert one.parent == other.parent == tmp_path
    assert one != other
    for name in (one.name, other.name, "caravan-1-of-somebody-else", "another"):
        (tmp_path / name).mkdir()
    assert set(handover_directories()) == {one, other}
    monkeypatch.setattr(handover_folder, "SHARED_MEMORY", tmp_path / "missing")
    assert handover_directory(HandoverSettings(), tmp_path) is None
    assert handover_directories() == []


@pytest.mark.parametrize("settings", [{"time_s": 0}, {"budget_bytes": 0}])
def test_nothing_is_left_where_nothing_may_be(tmp_path, settings):
    settings = HandoverSettings(directory=tmp_path, **settings)
    assert handover_directory(settings, tmp_path) is None


def test_names_tell_requests_and_tenants_apart():
    roots = [root_key("d", tenant) for tenant in ("a", "b")]
    names = {handover_name(root, name) for root in roots for name in ("r1", "r2", "../r")}
    assert len(names) == 6
    assert all(set(name) <= set("0123456789abcdef-") for name in names)
