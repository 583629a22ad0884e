import os
import stat

import pytest

from caravan_policy.domain.errors import StoreUnusableError
from caravan_policy.storage.admin_key_file import HomeAdminKeyFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "admin.key"


def test_written_credential_is_read_back(path):
    file = HomeAdminKeyFile(path)
    assert file.read() is None
    file.write("cvn_a_b")
    assert file.read() == "cvn_a_b"
    assert path.read_bytes() == b"cvn_a_b\n"


def test_only_the_owner_may_read_it_whatever_the_umask(path):
    old = os.umask(0)
    try:
        HomeAdminKeyFile(path).write("cvn_a_b")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_replacing_leaves_no_draft_and_no_old_mode(path):
    path.write_text("old")
    path.chmod(0o644)
    path.with_name(".admin.key.new").write_text("left behind by a crash")
    HomeAdminKeyFile(path).write("new")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["admin.key"]


def test_file_that_a_link_points_to_is_left_alone(path, tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    path.symlink_to(target)
    HomeAdminKeyFile(path).write("new")
    assert target.read_text() == "precious"
    assert not path.is_symlink()


def test_file_that_cannot_be_written_or_read_is_refused(tmp_path):
    missing = HomeAdminKeyFile(tmp_path / "nowhere" / "admin.key")
    with pytest.raises(StoreUnusableError, match="Cannot write"):
        missing.write("cvn_a_b")
    (tmp_path / "folder.key").mkdir()
    with pytest.raises(StoreUnusableError, match="Cannot read"):
        HomeAdminKeyFile(tmp_path / "folder.key").read()
