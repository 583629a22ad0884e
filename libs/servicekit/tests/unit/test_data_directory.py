import os
import subprocess
import sys
import textwrap

import pytest

from caravan_rpckit.errors import Reason
from caravan_servicekit.data_directory import (
    DataDirectory,
    DataDirectoryInUseError,
    DataDirectoryUnwritableError,
)


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_home_and_directory_are_created_private(tmp_path):
    home = tmp_path / "deep" / "home"
    with DataDirectory.open(home, "policy") as directory:
        assert directory.path == home / "policy"
        assert [path.stat().st_mode & 0o777 for path in (home, directory.path)] == [0o700] * 2


def test_an_open_directory_is_made_private_again(tmp_path):
    (tmp_path / "policy").mkdir(mode=0o755)
    with DataDirectory.open(tmp_path, "policy") as directory:
        assert directory.path.stat().st_mode & 0o777 == 0o700


def test_a_home_that_exists_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    DataDirectory.open(tmp_path, "policy").close()
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_second_holder_is_refused_with_directory_and_pid(tmp_path):
    with (
        DataDirectory.open(tmp_path, "policy"),
        pytest.raises(DataDirectoryInUseError) as raised,
    ):
        DataDirectory.open(tmp_path, "policy")
    assert raised.value.reason is Reason.DATA_DIRECTORY_IN_USE
    assert str(tmp_path / "policy") in raised.value.message
    assert f"process {os.getpid()};" in raised.value.message


def test_another_process_is_refused_too(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from caravan_servicekit.data_directory import DataDirectory
        DataDirectory.open(Path(sys.argv[1]), "policy")
    """
    with DataDirectory.open(tmp_path, "policy"):
        refused = run_python(code, tmp_path)
    assert "DataDirectoryInUseError" in refused.stderr
    assert run_python(code, tmp_path).returncode == 0


def test_services_do_not_block_each_other(tmp_path):
    with DataDirectory.open(tmp_path, "policy"), DataDirectory.open(tmp_path, "gateway"):
        pass


def test_a_killed_holder_leaves_nothing_in_the_way(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from caravan_servicekit.data_directory import DataDirectory
        held = DataDirectory.open(Path(sys.argv[1]), "policy")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, tmp_path).returncode == -9
    DataDirectory.open(tmp_path, "policy").close()


def test_a_started_program_does_not_inherit_the_lock(tmp_path):
    held = DataDirectory.open(tmp_path, "policy")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        held.close()
        DataDirectory.open(tmp_path, "policy").close()
        child.communicate(b"\n", timeout=30)


def test_closing_twice_does_not_close_a_strangers_file(tmp_path):
    directory = DataDirectory.open(tmp_path, "policy")
    directory.close()
    with (tmp_path / "other").open("wb") as other:
        directory.close()
        other.write(b"still open")


def test_a_file_in_the_way_is_a_clear_error(tmp_path):
    (tmp_path / "policy").write_text("a file")
    with pytest.raises(DataDirectoryUnwritableError, match="policy: File exists") as raised:
        DataDirectory.open(tmp_path, "policy")
    assert raised.value.reason is Reason.DATA_DIRECTORY_UNWRITABLE


def test_a_place_that_takes_no_directories_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirectoryUnwritableError, match="File exists"):
        DataDirectory.open(tmp_path / "file", "policy")


def test_a_full_disk_is_found_at_start_and_the_lock_is_free_again(tmp_path):
    code = """
        import resource, sys
        from pathlib import Path
        from caravan_servicekit.data_directory import *
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        for _ in range(2):
            try:
                DataDirectory.open(Path(sys.argv[1]), "policy")
            except DataDirectoryUnwritableError as error:
                print(error)
    """
    lines = run_python(code, tmp_path).stdout.splitlines()
    assert len(lines) == 2
    assert all("can't write to the data directory" in line for line in lines)
