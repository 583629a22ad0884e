"""The command as a real process: pipes, signals and terminals."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

import pytest

PATIENCE_S = 30

# Becomes the command in a session of its own, so that Ctrl-C at its terminal reaches it.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "caravan_client", *sys.argv[1:]])
"""


class Terminal:
    """The person's side of a pseudo terminal."""

    def __init__(self):
        self._person, self.program = pty.openpty()
        self.screen = ""

    def expect(self, pattern: str, patience_s: float = PATIENCE_S) -> str:
        """Reads until `pattern` shows up after what was matched before; returns that part."""
        deadline = time.monotonic() + patience_s
        while not (match := re.search(pattern, self.screen, re.DOTALL)):
            ready, _, _ = select.select([self._person], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no {pattern!r} in {self.screen!r}")
            self.screen += os.read(self._person, 65536).decode(errors="replace")
        seen, self.screen = self.screen[: match.end()], self.screen[match.end() :]
        return seen

    def interrupt_prompt(self, pattern: str) -> None:
        """Types Ctrl-C until `pattern` shows up.

        Python's readline notices a signal that comes between the prompt and its waiting for input
        only with the next key.
        """
        for _ in range(PATIENCE_S):
            self.type("\x03")
            with contextlib.suppress(TimeoutError):
                self.expect(pattern, patience_s=1)
                return
        raise TimeoutError(f"no {pattern!r} in {self.screen!r}")

    def type(self, text: str | bytes) -> None:
        os.write(self._person, text.encode() if isinstance(text, str) else text)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.program, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def close(self) -> None:
        os.close(self._person)
        os.close(self.program)


def plain(screen: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen)


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def start_at_terminal(start_command, terminal):
    def start(*arguments: str):
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.program)
        return start_command(*arguments, **streams, launcher=("-c", TAKE_TERMINAL))

    return start


def test_interrupt_ends_the_call_and_exits_with_130(start_command, gateway):
    gateway.endless = True
    process = start_command("chat", "Hi")
    assert process.stdout.read(16) == b"Once upon a time"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (130, b"\n", b"")
    assert gateway.left.wait(PATIENCE_S)


def test_interrupt_ends_a_call_that_waits_for_the_whole_answer(start_command, gateway):
    gateway.endless = True
    process = start_command("generate", "--no-stream", "Once")
    assert gateway.waiting.wait(PATIENCE_S)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE_S) == (b"", b"")
    assert process.returncode == 130
    assert gateway.left.wait(PATIENCE_S)


def test_reader_that_leaves_ends_the_call_silently(start_command, gateway):
    gateway.pieces = ["many words "] * 20_000
    gateway.endless = True
    process = start_command("generate", "Once")
    assert process.stdout.read(4) == b"many"
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 141
    assert process.stderr.read() == b""
    assert gateway.left.wait(PATIENCE_S)


def test_full_disk_is_told_without_a_traceback(start_command):
    with open("/dev/full", "wb") as full:  # noqa: PTH123 (a device)
        process = start_command("generate", "Once", stdout=full)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert err.startswith(b"caravan: unexpected OSError: [Errno 28] No space left")
    assert len(err.splitlines()) == 1


def test_pipes_work_in_both_directions(start_command, gateway):
    process = start_command("generate", stdin=-1)
    out, err = process.communicate("Grüße".encode(), timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (0, b"Once upon a time\n", b"")
    assert gateway.calls[0][1].text == "Grüße"


def test_text_argument_does_not_wait_for_an_open_pipe(start_command):
    process = start_command("chat", "Hi", stdin=-1)
    assert process.wait(PATIENCE_S) == 0


def test_text_is_utf8_whatever_the_locale(start_command, gateway, monkeypatch):
    gateway.pieces = ["naïve ✓"]
    monkeypatch.setenv("LC_ALL", "C")
    out, _ = start_command("generate", "Once").communicate(timeout=PATIENCE_S)
    assert out == "naïve ✓\n".encode()


def test_terminal_gets_no_control_characters_of_a_model(start_at_terminal, terminal, gateway):
    gateway.pieces = ["a\x1b]0;owned\x07", "b\x9b2J\u202ec\rd\te\n"]
    process = start_at_terminal("chat", "Hi")
    terminal.expect("a␛]0;owned␇b�2J�c␍d\te\r\n")
    assert process.wait(PATIENCE_S) == 0


def test_conversation_keeps_its_turns_and_an_interrupt_stops_only_the_answer(
    start_at_terminal, terminal, gateway
):
    process = start_at_terminal("chat", "--system", "Be short.")
    terminal.expect("> $")
    terminal.type("First\n")
    terminal.expect("Once upon a time\r\n.*> $")

    gateway.endless = True
    terminal.type("Second\n")
    terminal.expect("Once upon a time")
    terminal.type("\x03")
    terminal.expect(r"\(stopped\)\r\n.*> $")
    assert gateway.left.wait(PATIENCE_S)

    gateway.endless = False
    terminal.type("Third\n")
    terminal.expect("Once upon a time\r\n.*> $")
    answer = "Once upon a time"
    turns = [turn.content for turn in gateway.calls[-1][1].chat.messages]
    assert turns == ["Be short.", "First", answer, "Second", answer, "Third"]

    terminal.interrupt_prompt("Ctrl-D leaves.*> $")
    terminal.type("/clear\n")
    terminal.expect("begun anew.*> $")
    terminal.type("Fourth\n")
    terminal.expect("Once upon a time\r\n.*> $")
    turns = [turn.content for turn in gateway.calls[-1][1].chat.messages]
    assert turns == ["Be short.", "Fourth"]

    terminal.type("\x04")
    assert process.wait(PATIENCE_S) == 0


def test_failed_turn_is_told_and_forgotten(start_at_terminal, terminal, gateway, reason_failure):
    process = start_at_terminal("chat")
    terminal.expect("> $")
    gateway.failures.append(reason_failure("NO_CHAT_TEMPLATE", "No template."))
    terminal.type("First\n")
    terminal.expect("caravan: NO_CHAT_TEMPLATE: .*> $")
    terminal.type(b"broken \xff\n")
    terminal.expect("caravan: INVALID_FIELD: .*> $")
    terminal.type("Second\n")
    terminal.expect("Once upon a time\r\n.*> $")
    assert [turn.content for turn in gateway.calls[-1][1].chat.messages] == ["Second"]
    terminal.type("/exit\n")
    assert process.wait(PATIENCE_S) == 0


def test_cut_off_answer_is_told_to_a_person(start_at_terminal, terminal, gateway):
    gateway.finish = "FINISH_REASON_LENGTH"
    process = start_at_terminal("generate", "Once")
    terminal.expect(r"Once upon a time\r\n\(cut off after 3 tokens")
    assert process.wait(PATIENCE_S) == 0


def test_tables_keep_to_the_width_of_the_terminal(start_at_terminal, terminal, gateway):
    gateway.models["a-model-with-quite-a-long-name-for-so-narrow-a-screen"] = 3
    terminal.resize(columns=60)
    process = start_at_terminal("models", "list")
    table = terminal.expect("gamma[^\n]*\n")
    assert all(len(line.rstrip()) <= 60 for line in plain(table).splitlines())
    assert process.wait(PATIENCE_S) == 0


def test_loading_draws_a_bar_for_a_person(start_at_terminal, terminal):
    process = start_at_terminal("models", "load", "alpha")
    terminal.expect("100%.*alpha is ready\r\n")
    assert process.wait(PATIENCE_S) == 0
