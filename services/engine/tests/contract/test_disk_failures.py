"""The disk tier on a disk that is full, and after its process was killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caravan_engine.domain.ports import PageLost, PageWritten
from caravan_engine.storage.page_losses import LossCause

_DISK_BYTES = 256 * 1024

_WRITE_UNTIL_KILLED = """
import importlib.util, json, pathlib, sys
spec = importlib.util.spec_from_file_location("tier", sys.argv[1])
tier = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tier)
pages, disk, image = tier.Pages(), tier.Disk(pathlib.Path(sys.argv[2])), None
while True:
    image = pages.image(data=bytes(200_000), after=image)
    (news,) = disk.write(image)
    print(json.dumps(news.key.hex()), flush=True)
"""

_WRITE_WITH_A_LIMIT = """
import importlib.util, json, pathlib, resource, sys
spec = importlib.util.spec_from_file_location("tier", sys.argv[1])
tier = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tier)
pages, disk = tier.Pages(), tier.Disk(pathlib.Path(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
news = disk.write(pages.image(data=bytes(8000)), pages.image(data=bytes(100)))
disk.close()
print(json.dumps([type(each).__name__ for each in news]))
print(json.dumps(sorted(path.suffix for path in disk.folder.iterdir())))
"""

_CONFTEST = str(Path(__file__).with_name("conftest.py"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few pages; to be asked for before what has files open in it."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "none", str(path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root's rights")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_loses_new_pages_and_keeps_the_others(small_disk, open_disk, pages, caplog):
    images = [pages.image(data=bytes(60_000)) for _ in range(8)]
    disk = open_disk(small_disk)
    answers = disk.write(*images)

    kept = [image for image, news in zip(images, answers, strict=True) if _is_written(news)]
    assert kept == images[:4]
    assert disk.holds(*images) == kept
    assert disk.pages.stats().lost[LossCause.WRITE_FAILED] == 4
    (record,) = caplog.records
    assert (record.cause, record.detail) == ("write_failed", "No space left on device")
    disk.pages.forget([kept[0].info.key])
    assert disk.write(images[7]) == [PageWritten(images[7].info.key)]
    assert not list(disk.folder.glob("*.partial"))
    disk.close()


def _is_written(news):
    return isinstance(news, PageWritten)


def test_a_file_that_the_system_cuts_off_is_a_lost_page(tmp_path):
    script = [sys.executable, "-c", _WRITE_WITH_A_LIMIT, _CONFTEST, str(tmp_path)]
    done = subprocess.run(script, capture_output=True, check=True, timeout=60)
    outcomes, names = map(json.loads, done.stdout.splitlines())

    assert outcomes == [PageLost.__name__, PageWritten.__name__]
    assert names == ["", ".page"]


def test_after_a_kill_in_the_middle_of_writing_all_that_was_reported_is_there(open_disk, tmp_path):
    script = [sys.executable, "-c", _WRITE_UNTIL_KILLED, _CONFTEST, str(tmp_path / "pages")]
    with subprocess.Popen(script, stdout=subprocess.PIPE) as writer:
        reported = [json.loads(writer.stdout.readline()) for _ in range(20)]
        writer.kill()
        reported += map(json.loads, writer.stdout.read().splitlines())

    disk = open_disk()
    found = [info.key.hex() for info in disk.pages.found()]
    assert found[: len(reported)] == reported
    assert len(found) <= len(reported) + 1
    assert not list(disk.folder.glob("*.partial"))
    assert disk.pages.stats().lost == {}
