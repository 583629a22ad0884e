"""The tables of the README are those that the code gives."""

from pathlib import Path

import pytest

from caravan_obskit.instruments import Instruments
from caravan_policy.config import PolicySettings
from caravan_policy.metrics import PolicyMetrics
from caravan_servicekit.settings_report import settings_table

README = Path(__file__).parents[2] / "README.md"


def _metrics_table():
    instruments = Instruments()
    PolicyMetrics(instruments)
    return instruments.table()


@pytest.mark.parametrize(
    ("name", "table"), [("settings", settings_table(PolicySettings)), ("metrics", _metrics_table())]
)
def test_table_is_up_to_date(name, table):
    text = README.read_text(encoding="utf-8")
    shown = text.split(f"<!-- {name} -->")[1].split("<!-- end -->")[0]
    assert shown.strip() == table
