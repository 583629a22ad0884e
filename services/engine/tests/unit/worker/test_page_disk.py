import pytest

from caravan_engine.config import EngineSettings, KvSettings
from caravan_engine.control.settings import WorkerSettings
from caravan_engine.worker.page_disk import open_page_disk


@pytest.fixture
def settings(tmp_path):
    def make(**kv):
        engine = EngineSettings(home=tmp_path, kv=KvSettings(**kv))
        return WorkerSettings(
            worker_id="w",
            model="tiny",
            model_path=tmp_path / "tiny.gguf",
            model_digest="d" * 64,
            replica_index=0,
            address="127.0.0.1:0",
            home=engine.home,
            drain_timeout_s=1,
            log_level="info",
            context=engine.context,
            kv=engine.kv,
            host_page_bytes=0,
            queue=engine.queue,
            chat=engine.chat,
        )

    return make


def test_prompts_are_stored_only_if_the_operator_says_so(settings, tmp_path):
    assert open_page_disk(settings(), b"layout", lambda: None) is None
    assert not (tmp_path / "pages").exists()


@pytest.mark.parametrize("kv", [{}, {"disk_compression": "zstd", "async_prefetch": False}])
def test_pages_of_a_replica_are_under_its_home(settings, tmp_path, kv):
    disk = open_page_disk(settings(disk_budget_bytes=10**6, **kv), b"layout", lambda: None)
    assert disk is not None
    stats = disk.stats()
    disk.close()

    assert (stats.is_usable, stats.budget_bytes) == (True, 10**6)
    (folder,) = (tmp_path / "pages" / "0").iterdir()
    assert [path.name for path in folder.iterdir()] == ["lock"]
