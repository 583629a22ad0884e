import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from caravan_client.cli.json_text import error_json, event_json, to_json
from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.quantities import parse_duration, size_text
from caravan_client.cli.terminal_text import harmless, one_line
from caravan_client.errors import ErrorDetails, FieldViolation, InvalidRequestError
from caravan_client.generation import Completed, Usage
from caravan_client.resources import ApiKey, ApiKeyState, CreatedApiKey


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30d", timedelta(days=30)),
        ("1d12h", timedelta(days=1, hours=12)),
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_durations_are_read(text, expected):
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "30", "d", "1.5h", "-1d", "1y", "0s", "999999999w", "1d 2h"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=r"duration|longer|too long"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (638_000_000, "638 MB")]
)
def test_sizes_are_short(size, text):
    assert size_text(size) == text


def test_everything_a_terminal_would_obey_is_made_visible():
    for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)):
        character = chr(code)
        kept = character in "\n\t"
        assert (harmless(f"a{character}b") == f"a{character}b") is kept
    assert harmless("Grüße, 你好 👋🏽 [bold]") == "Grüße, 你好 👋🏽 [bold]"


def test_names_cannot_break_a_line():
    assert one_line("a\nb\x1b[1m\tc") == "a b␛[1m c"


def test_json_holds_names_times_and_secrets():
    key = ApiKey(
        *("k1", "alice", "default", "é"),
        ApiKeyState.ACTIVE,
        create_time=datetime(2025, 1, 2, tzinfo=UTC),
        expire_time=None,
        revoke_time=None,
    )
    document = json.loads(to_json(CreatedApiKey(key, "the-secret")))
    assert document["secret"] == "the-secret"
    assert document["key"]["state"] == "active"
    assert document["key"]["create_time"] == "2025-01-02T00:00:00+00:00"
    assert json.loads(event_json(Completed(Usage(1, 2, 3))))["event"] == "completed"


def test_error_as_json_has_every_detail():
    details = ErrorDetails(
        reason="INVALID_FIELD", field_violations=(FieldViolation("a", "b"),), retry_after_s=1.5
    )
    error = json.loads(error_json(InvalidRequestError("no", details)))["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert error["field_violations"] == [{"field": "a", "description": "b"}]
    assert error["retry_after_s"] == 1.5


def test_inner_options_go_before_outer_ones():
    outer = ConnectionOptions(address="outer:1", timeout=5, tls=True, json=True)
    inner = ConnectionOptions(address="inner:1", timeout=0, tls=False)
    merged = inner.over(outer)
    assert (merged.address, merged.timeout, merged.tls, merged.json) == ("inner:1", 0, False, True)
    assert inner.over(None) is inner


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(help="How wide.")] = 3
    tall: Annotated[bool, typer.Option("--tall")] = False


def test_group_of_options_reaches_the_command_as_one_value():
    app = typer.Typer()
    seen = []

    @app.command()
    @grouped
    def paint(name: Annotated[str, typer.Argument()], size: Size, colour: str = "red") -> None:
        seen.append((name, size, colour))

    assert CliRunner().invoke(app, ["x", "--width", "9", "--tall"]).exit_code == 0
    assert CliRunner().invoke(app, ["y", "--colour", "blue"]).exit_code == 0
    assert seen == [("x", Size(9, True), "red"), ("y", Size(), "blue")]


def test_option_without_a_default_is_a_programming_error():
    @dataclass
    class Broken:
        width: int

    def paint(size: Broken) -> None: ...

    paint.__annotations__ = {"size": Broken}
    with pytest.raises(TypeError, match="default"):
        grouped(paint)
