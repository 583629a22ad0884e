from pathlib import Path

import pytest

from caravan_engine.config import EngineSettings
from caravan_engine.metrics import HostMetrics
from caravan_obskit.instruments import Instruments
from caravan_servicekit.settings_report import settings_table

ENGINE = Path(__file__).parents[2]
README = (ENGINE / "README.md").read_text()
SOURCE = ENGINE / "src" / "caravan_engine"


def test_the_settings_table_is_that_of_the_service():
    assert settings_table(EngineSettings).strip() in README


def test_the_metrics_table_is_that_of_the_service():
    instruments = Instruments()
    HostMetrics(instruments)

    assert instruments.table() in README


@pytest.mark.parametrize("word", sorted({w for w in README.split("`") if w.endswith(".py")}))
def test_every_file_that_is_named_exists(word):
    assert (SOURCE / word).is_file()
