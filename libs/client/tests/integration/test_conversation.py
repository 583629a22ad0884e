"""`caravan chat` at a terminal."""

import json
import stat

import pytest

PATIENCE_S = 30
PROMPT = r"> ?\x08*$"  # the cursor goes there and back as it is drawn
ANSWER = "Once upon a time"


@pytest.fixture
def talk(start_at_terminal, terminal):
    """Starts a conversation and says whether it ended well."""

    def start(*arguments: str):
        process = start_at_terminal("chat", *arguments)
        terminal.expect(PROMPT)
        return process

    return start


def say(terminal, text: str, answer: str = ANSWER) -> None:
    terminal.type(f"{text}\r")
    terminal.expect(answer)
    terminal.expect(PROMPT)


def sent(gateway) -> list[str]:
    return [turn.content for turn in gateway.calls[-1][1].chat.messages]


def test_conversation_keeps_its_turns_and_an_interrupt_stops_only_the_answer(
    talk, terminal, gateway
):
    process = talk("--system", "Be short.")
    say(terminal, "First")
    gateway.endless = True
    terminal.type("Second\r")
    terminal.expect(ANSWER)
    terminal.type("\x03")
    terminal.expect(r"\(stopped\)")
    terminal.expect(PROMPT)
    assert gateway.left.wait(PATIENCE_S)

    gateway.endless = False
    say(terminal, "Third")
    assert sent(gateway) == ["Be short.", "First", ANSWER, "Second", ANSWER, "Third"]

    say(terminal, "/clear", "begun anew")
    say(terminal, "Fourth")
    assert sent(gateway) == ["Be short.", "Fourth"]
    names = {request.session_id for _, request, *_ in gateway.calls}
    assert len(names) == 1
    assert names != {""}

    terminal.type("\x04")
    assert process.wait(PATIENCE_S) == 0


def test_interrupt_at_the_prompt_drops_what_was_typed_and_stays(talk, terminal, gateway):
    process = talk()
    terminal.type("never sent")
    terminal.expect("never sent")
    terminal.type("\x03")
    terminal.expect("Ctrl-D leaves")
    terminal.expect(PROMPT)
    say(terminal, "sent")
    assert sent(gateway) == ["sent"]
    terminal.type("/exit\r")
    assert process.wait(PATIENCE_S) == 0


def test_failed_turn_is_told_and_forgotten(talk, terminal, gateway, reason_failure):
    talk()
    gateway.failures.append(reason_failure("NO_CHAT_TEMPLATE", "No template."))
    say(terminal, "First", "caravan: NO_CHAT_TEMPLATE: ")
    terminal.type(b"broken \xff\r")
    terminal.expect("caravan: INVALID_FIELD: ")
    terminal.expect(PROMPT)
    say(terminal, "Second")
    assert sent(gateway) == ["Second"]


def test_backslash_at_the_end_of_a_line_continues_the_message(talk, terminal, gateway):
    talk()
    terminal.type("one \\\r")
    terminal.expect("…")
    say(terminal, "two")
    assert sent(gateway) == ["one \ntwo"]


def test_triple_quotes_hold_a_message_of_several_lines(talk, terminal, gateway):
    talk()
    terminal.type('"""\r')
    terminal.expect("…")
    terminal.type("def f():\r")
    terminal.type("    return 1\r")
    say(terminal, '"""')
    assert sent(gateway) == ["def f():\n    return 1"]


def test_pasted_lines_are_one_message(talk, terminal, gateway):
    talk()
    terminal.paste("first line\nsecond line\n\nthird line")
    terminal.expect("third line")
    say(terminal, "")
    assert sent(gateway) == ["first line\nsecond line\n\nthird line"]


def test_arrow_keys_edit_and_recall(talk, terminal, gateway):
    talk()
    say(terminal, "ab\x1b[D\x1b[DX")
    assert sent(gateway)[-1] == "Xab"
    say(terminal, "\x1b[A")
    assert sent(gateway)[-1] == "Xab"


def test_history_is_kept_for_the_next_conversation_and_for_nobody_else(
    talk, terminal, gateway, caravan_home
):
    process = talk()
    say(terminal, "remember me")
    terminal.type("\x04")
    assert process.wait(PATIENCE_S) == 0
    file = caravan_home / "chat_history"
    assert json.loads(file.read_text()) == "remember me"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    talk()
    say(terminal, "\x1b[A")
    assert sent(gateway) == ["remember me"]


def test_history_can_be_left_out(talk, terminal, caravan_home):
    process = talk("--no-history")
    say(terminal, "secret")
    terminal.type("\x04")
    assert process.wait(PATIENCE_S) == 0
    assert not (caravan_home / "chat_history").exists()


def test_system_prompt_can_be_changed_on_the_way(talk, terminal, gateway):
    talk()
    say(terminal, "/system Be a pirate.", "system prompt is set")
    say(terminal, "Hi")
    assert sent(gateway) == ["Be a pirate.", "Hi"]
    say(terminal, "/system", "no system prompt")
    say(terminal, "Again")
    assert sent(gateway) == ["Hi", ANSWER, "Again"]


def test_model_can_be_changed_on_the_way(talk, terminal, gateway):
    talk("-m", "alpha")
    say(terminal, "/model", "the model is alpha; there are: alpha, beta, gamma")
    say(terminal, "/model beta", "the model is beta")
    say(terminal, "/model delta", "MODEL_NOT_FOUND")
    say(terminal, "Hi")
    assert gateway.calls[-1][1].model == "beta"


def test_tab_completes_commands_and_models(talk, terminal):
    talk("-m", "alpha")
    terminal.type("/mo\t")
    terminal.expect("/model")
    terminal.type("bet\t")
    terminal.expect("bet.*a")
    say(terminal, "", "the model is beta")


def test_conversation_can_be_saved_and_never_over_a_file(talk, terminal, tmp_path):
    talk("-m", "alpha", "--system", "Be short.")
    say(terminal, "Hi")
    file = tmp_path / "talk.json"
    say(terminal, f"/save {file}", "saved to")
    document = json.loads(file.read_text())
    assert document["model"] == "alpha"
    assert [turn["role"] for turn in document["messages"]] == ["system", "user", "assistant"]
    say(terminal, f"/save {file}", "not saved")
    notes = tmp_path / "talk.md"
    say(terminal, f"/save {notes}", "saved to")
    assert (
        notes.read_text()
        == f"## system\n\nBe short.\n\n## user\n\nHi\n\n## assistant\n\n{ANSWER}\n"
    )
    say(terminal, "/save", "give a file")


def test_help_lists_every_command_and_an_unknown_one_is_not_sent(talk, terminal, gateway):
    talk()
    terminal.type("/help\r")
    for name in ("clear", "system", "model", "save", "exit"):
        terminal.expect(f"/{name}")
    terminal.expect(PROMPT)
    say(terminal, "/nonsense", "no command /nonsense")
    assert gateway.calls == []
    say(terminal, " /nonsense")
    assert sent(gateway) == ["/nonsense"]


def test_message_in_the_arguments_does_not_load_the_editor(start_command):
    launcher = (
        "-c",
        "import sys\nfrom caravan_client.cli.app import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print([m for m in ('prompt_toolkit', 'rich') if m in sys.modules])\n",
    )
    process = start_command("chat", "Hi", launcher=launcher)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert out.decode().splitlines() == [ANSWER, "[]"]
