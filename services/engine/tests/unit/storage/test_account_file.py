import os
import signal
import subprocess
import sys

import pytest

from caravan_engine.runtime.account_book import AccountsError
from caravan_engine.storage.account_file import AccountFile, AccountFolder

_WRITER = """
import sys
from pathlib import Path
from caravan_engine.storage.account_file import AccountFile

file = AccountFile(Path(sys.argv[1]))
for number in range(1_000_000):
    file.write({"u1": b"%d" % number, f"v{number}": b"", f"v{number - 1}": None})
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "accounts" / "worker.db"


@pytest.fixture
def folder(path):
    return AccountFolder(path.parent)


def test_rows_are_put_replaced_and_removed(path, folder):
    file = AccountFile(path)
    file.write({"a": b"1", "b": b"2", "c": b"3"})
    file.write({"a": b"9", "b": None, "unknown": None})
    assert [each.stat().st_mode & 0o077 for each in path.parent.iterdir()] == [0, 0]
    file.close()
    assert sorted(folder.read(path.name)) == [b"3", b"9"]


def test_nobody_reads_the_file_of_a_worker_that_lives(path, folder):
    file = AccountFile(path)
    file.write({"a": b"1"})
    assert folder.read(path.name) is None
    file.write({"b": b"2"})
    file.close()
    assert sorted(folder.read(path.name)) == [b"1", b"2"]


def test_nothing_stays_of_a_file_without_rows(path):
    file = AccountFile(path)
    file.write({"a": b"1"})
    file.write({"a": None})
    file.close()
    assert list(path.parent.iterdir()) == []


def test_what_was_written_survives_kill_nine_and_is_readable_at_once(path, folder):
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    last = 0
    for line in writer.stdout:
        last = int(line)
        if last >= 100:
            break
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    counts = [int(record) for record in folder.read(path.name) if record]
    assert len(counts) == 1
    assert counts[0] >= last
    folder.remove(path.name)
    assert list(path.parent.iterdir()) == []


def test_a_full_file_takes_all_or_nothing_and_room_comes_back(path, folder):
    file = AccountFile(path, max_bytes=2**17)
    rows = {str(number): os.urandom(1000) for number in range(50)}
    file.write(rows)
    with pytest.raises(AccountsError):
        file.write({"more": os.urandom(80_000)})
    file.write({key: None for key in rows if key != "0"})
    file.write({"more": b"x" * 50_000})
    file.close()
    assert sorted(map(len, folder.read(path.name))) == [1000, 50_000]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "accounts").write_text("a file is in the way")
    with pytest.raises(AccountsError):
        AccountFile(tmp_path / "accounts" / "worker.db").write({"a": b"1"})


def test_a_file_whose_worker_died_before_it_wrote_has_nothing(path, folder):
    path.parent.mkdir()
    path.touch()
    assert folder.read(path.name) == []


def test_a_damaged_file_is_told_of_and_put_aside(path, folder):
    path.parent.mkdir()
    path.write_bytes(b"this is no database at all" * 400)
    with pytest.raises(AccountsError):
        folder.read(path.name)
    folder.put_aside(path.name)
    assert [each.name for each in path.parent.iterdir()] == ["worker.db.damaged"]
