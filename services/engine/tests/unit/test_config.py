from pathlib import Path

import pytest

from caravan_engine.config import EngineSettings
from caravan_engine.control.settings import WorkerSettings
from caravan_servicekit.settings import load_settings
from caravan_servicekit.settings_faults import SettingsError
from caravan_servicekit.settings_fields import settings_of
from caravan_servicekit.settings_sources import parse_command_line


def load(*flags, **environment):
    line = parse_command_line(
        flags, environment, settings_of(EngineSettings), EngineSettings.all_aliases()
    )
    return load_settings(EngineSettings, line, environment)


def test_a_model_may_be_given_by_variable_or_flag():
    assert load(CARAVAN_MODEL="/x/a.gguf").models.path == Path("/x/a.gguf")
    assert load("--model", "/x/b.gguf", CARAVAN_MODEL="/x/a.gguf").models.path == Path("/x/b.gguf")


def test_models_live_in_the_home_unless_told_otherwise():
    assert load("--home", "/h").model_directory == Path("/h/models")
    assert load("--models.directory", "/m").model_directory == Path("/m")


@pytest.mark.parametrize(
    "flags",
    [
        ("--context.seats", "64", "--context.token-budget", "32"),
        ("--context.micro-batch", "1024", "--context.token-budget", "512"),
        ("--context.max-tokens", "9000", "--context.cells", "8192"),
        ("--context.seats", "257"),
        ("--context.seats", "240"),
        ("--kv.resident-sequences", "240"),
        ("--context.seats", "256", "--no-paged-kv"),
        ("--kv-page-size", "15"),
        ("--kv-page-size", "8193"),
        ("--kv.start-watermark", "0.7"),
        ("--kv.stop-watermark", "0.9"),
        ("--kv.prefetch-threads", "0"),
        ("--kv.disk-compression", "lzma"),
        ("-ngl", "-1"),
        ("--no-paged-kv=maybe",),
        ("-c",),
        ("--context.key-type", "q5_0"),
        ("--workers.listen-host", "::1"),
        ("--workers.port-base", "65530"),
        ("--queue.weights", '{"acme": 0}'),
        ("--queue.ageing-s-per-level", "-1"),
    ],
)
def test_settings_that_cannot_work_are_refused(flags):
    with pytest.raises(SettingsError):
        load(*flags)


def test_sequence_ids_are_shared_by_seats_idle_pages_and_one_scratch_id():
    assert load("--context.seats", "239").context.seats == 239
    assert load("--context.seats", "255", "--no-paged-kv").context.seats == 255
    with pytest.raises(SettingsError, match="can't exceed 255 together"):
        load("--context.seats", "240")


@pytest.mark.parametrize(
    ("flags", "variables", "path", "value"),
    [
        (("-c", "4096"), {"LLAMA_ARG_CTX_SIZE": "4096"}, "context.cells", 4096),
        (("-np", "4"), {"LLAMA_ARG_N_PARALLEL": "4"}, "context.seats", 4),
        (("-b", "1024"), {"LLAMA_ARG_BATCH": "1024"}, "context.token_budget", 1024),
        (("-ub", "128"), {"LLAMA_ARG_UBATCH": "128"}, "context.micro_batch", 128),
        (("-t", "3"), {"LLAMA_ARG_THREADS": "3"}, "context.threads", 3),
        (("-ngl", "99"), {"LLAMA_ARG_N_GPU_LAYERS": "99"}, "context.gpu_layers", 99),
        (
            ("--cache-type-k", "q8_0"),
            {"LLAMA_ARG_CACHE_TYPE_K": "q8_0"},
            "context.key_type",
            "q8_0",
        ),
        (("-ctv", "q4_0"), {"LLAMA_ARG_CACHE_TYPE_V": "q4_0"}, "context.value_type", "q4_0"),
        (("--no-paged-kv",), {"LLAMA_ARG_PAGED_KV": "0"}, "kv.paged", False),
        (("--paged-kv",), {"LLAMA_ARG_NO_PAGED_KV": "off"}, "kv.paged", True),
        (("--kv-page-size", "100"), {"LLAMA_ARG_KV_PAGE_SIZE": "100"}, "kv.page_size", 100),
        (("--no-coalesce-pages",), {"LLAMA_ARG_NO_COALESCE_PAGES": "1"}, "kv.coalesce", False),
        (("--async-prefetch",), {"LLAMA_ARG_ASYNC_PREFETCH": "1"}, "kv.async_prefetch", True),
        (("--no-async-prefetch",), {"LLAMA_ARG_ASYNC_PREFETCH": "0"}, "kv.async_prefetch", False),
    ],
)
def test_names_of_llama_cpp_are_understood(flags, variables, path, value):
    section, field = path.split(".")
    assert getattr(getattr(load(*flags), section), field) == value
    assert getattr(getattr(load(**variables), section), field) == value


@pytest.mark.parametrize(
    ("flags", "directory"), [((), "/h/pages/2"), (("--kv.disk-directory", "/fast"), "/fast/2")]
)
def test_each_replica_has_a_folder_of_its_own_for_pages(flags, directory):
    assert worker(load("--home", "/h", *flags), replica_index=2).page_directory == Path(directory)


def worker(engine, **fields):
    settings = {
        "worker_id": "w",
        "model": "tiny",
        "model_path": "/models/ü\n.gguf",
        "model_digest": "d",
        "replica_index": 0,
        "address": "127.0.0.1:0",
        "home": engine.home,
        "drain_timeout_s": 1,
        "log_level": "info",
        "context": engine.context,
        "kv": engine.kv,
        "host_page_bytes": 1000,
        "queue": engine.queue,
        "chat": engine.chat,
    }
    return WorkerSettings(**{**settings, **fields})


def test_a_worker_gets_its_settings_unchanged_through_one_line():
    engine = load(
        *("--context.key-type", "q8_0", "--context.gpu-layers", "none"),
        *("--queue.weights", '{"acme/alice": 2, "acme": 0.5}'),
    )
    settings = worker(engine)
    line = settings.to_line()

    assert line.count(b"\n") == 1
    assert WorkerSettings.from_line(line) == settings


def test_the_metrics_log_is_turned_on_by_known_names():
    metrics = load("--metrics", "--metrics-file", "/m/{worker}.jsonl").metrics
    assert (metrics.log, metrics.file) == (True, Path("/m/{worker}.jsonl"))
    assert load(LLAMA_ARG_METRICS="1", LLAMA_ARG_METRICS_FILE="/m").metrics.file == Path("/m")
    assert not load().metrics.log
