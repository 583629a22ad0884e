import json
import stat

import pytest

from caravan_client.cli.chat_history import MOST_ENTRIES, ChatHistory, history_path
from caravan_client.cli.chat_input import Command, is_complete, message_of, parse_command


@pytest.mark.parametrize(
    "text",
    ["", "a", "a\\\\", "C:\\ ", '"""a"""', '"""a""" is a string', '"""\na\n"""', 'a """ b'],
)
def test_enter_sends_what_is_complete(text):
    assert is_complete(text)


@pytest.mark.parametrize(
    "text", ["a\\", "a\nb\\", "a\\\\\\", '"""', '"""a', '"""a\\', '"""a"""b"""']
)
def test_enter_continues_what_is_not_complete(text):
    assert not is_complete(text)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (" a ", "a"),
        ("a\\\nb", "a\nb"),
        ("a \\\nb\\\nc", "a \nb\nc"),
        ('"""a"""', "a"),
        ('"""\n  a\\\n\nb\n"""', "  a\\\n\nb"),
        ('"""a""" is a string', '"""a""" is a string'),
        ('""""""', ""),
        ("\\", "\\"),
    ],
)
def test_message_is_what_was_meant(typed, message):
    assert message_of(typed) == message


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/help", Command("help", "")),
        ("/Model  alpha ", Command("model", "alpha")),
        ("/system Be short.\nVery.", Command("system", "Be short.\nVery.")),
        ("/etc/hosts is what?", None),
        (" /help", None),
        ("/", None),
        ("/1", None),
        ("help", None),
    ],
)
def test_slash_and_a_word_are_a_command(text, command):
    assert parse_command(text) == command


def test_history_is_in_the_home_where_that_is_ours(tmp_path):
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    assert history_path({"CARAVAN_HOME": str(tmp_path)}) == tmp_path / "chat_history"
    elsewhere = tmp_path / "state" / "caravan" / "chat_history"
    assert history_path(state) == elsewhere
    assert history_path({**state, "CARAVAN_HOME": str(tmp_path / "missing")}) == elsewhere


def test_history_holds_any_text_and_is_private(tmp_path):
    history = ChatHistory(tmp_path / "new" / "chat_history")
    assert history.load() == []
    texts = ["a\nb", "naïve ✓", "half \udcc3", '"quoted"']
    for text in texts:
        history.add(text)
    assert history.load() == texts
    assert stat.S_IMODE(history.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.path.parent.stat().st_mode) == 0o700


def test_history_that_others_can_read_is_made_private(tmp_path):
    path = tmp_path / "chat_history"
    path.write_text('"a"\nnonsense\n7\n"b"\n')
    path.chmod(0o644)
    assert ChatHistory(path).load() == ["a", "b"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_history_does_not_grow_for_ever(tmp_path):
    path = tmp_path / "chat_history"
    path.write_text("".join(f"{json.dumps(str(number))}\n" for number in range(MOST_ENTRIES * 3)))
    assert ChatHistory(path).load()[-1] == str(MOST_ENTRIES * 3 - 1)
    assert len(path.read_text().splitlines()) == MOST_ENTRIES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_history_follows_no_link(tmp_path):
    target = tmp_path / "target"
    target.write_text("")
    link = tmp_path / "chat_history"
    link.symlink_to(target)
    ChatHistory(link).add("a")
    assert target.read_text() == ""


def test_history_that_cannot_be_kept_stops_nobody(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    history = ChatHistory(file / "chat_history")
    history.add("a")
    assert history.load() == []
