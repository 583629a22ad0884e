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
        ("--context.key-type", "q5_0"),
        ("--workers.listen-host", "::1"),
        ("--workers.port-base", "65530"),
    ],
)
def test_settings_that_cannot_work_are_refused(flags):
    with pytest.raises(SettingsError):
        load(*flags)


def test_a_worker_gets_its_settings_unchanged_through_one_line():
    engine = load("--context.key-type", "q8_0", "--context.gpu-layers", "none")
    settings = WorkerSettings(
        worker_id="w",
        model="tiny",
        model_path="/models/ü\n.gguf",
        model_digest="d",
        replica_index=0,
        address="127.0.0.1:0",
        home=engine.home,
        drain_timeout_s=1,
        log_level="info",
        context=engine.context,
        queue=engine.queue,
        chat=engine.chat,
    )
    line = settings.to_line()

    assert line.count(b"\n") == 1
    assert WorkerSettings.from_line(line) == settings
