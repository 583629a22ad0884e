"""The command as a real process: pipes, signals and terminals."""

import json
import signal

import pytest

PATIENCE_S = 30


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
    assert all(len(line.rstrip()) <= 60 for line in table.splitlines())
    assert process.wait(PATIENCE_S) == 0


def test_loading_draws_a_bar_for_a_person(start_at_terminal, terminal):
    process = start_at_terminal("models", "load", "alpha")
    terminal.expect("100%.*alpha is ready\r\n")
    assert process.wait(PATIENCE_S) == 0


def test_unloading_shows_the_time_to_a_person_and_nothing_to_a_pipe(
    start_at_terminal, start_command, terminal
):
    process = start_at_terminal("models", "unload", "alpha")
    terminal.expect(r"letting the requests of alpha finish 0:00:0\d.*alpha is unloaded")
    assert process.wait(PATIENCE_S) == 0
    piped = start_command("models", "unload", "alpha")
    out, err = piped.communicate(timeout=PATIENCE_S)
    assert (out, err) == (b"alpha is unloaded; 2 requests were ended\n", b"")


def test_long_work_whose_results_go_elsewhere_counts_on_the_terminal(
    start_command, terminal, tmp_path
):
    texts, vectors = tmp_path / "texts", tmp_path / "vectors"
    texts.write_text("a line\n" * 300)
    with texts.open("rb") as lines, vectors.open("wb") as out:
        process = start_command("embed", stdin=lines, stdout=out, stderr=terminal.program)
    terminal.expect("embedding")
    terminal.expect("300/")
    assert process.wait(PATIENCE_S) == 0
    assert len(vectors.read_text().splitlines()) == 300


def test_watching_at_a_terminal_refreshes_in_place_and_ends_cleanly(start_at_terminal, terminal):
    process = start_at_terminal("status", "--watch", "--interval", "0.1")
    terminal.expect("alpha/0")
    terminal.expect("alpha/0")
    terminal.type(b"\x03")
    assert process.wait(PATIENCE_S) == 0
    assert terminal.controls
    assert "Traceback" not in terminal.unmatched


def test_watching_at_a_terminal_without_a_cursor_prints_one_table_after_the_other(
    start_at_terminal, terminal
):
    command = ("status", "--watch", "--interval", "0.1")
    process = start_at_terminal(*command, terminal_kind="dumb")
    for _ in range(2):
        picture = terminal.expect("Ctrl-C ends")
        assert "WORKER" in picture
        assert picture.count("alpha/0") == 1
    terminal.type(b"\x03")
    assert process.wait(PATIENCE_S) == 0
    assert terminal.controls == []
    assert "Traceback" not in terminal.unmatched


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_watching_into_a_pipe_prints_whole_lines_until_it_is_interrupted(start_command, flags):
    process = start_command("status", "--watch", "--interval", "0.1", *flags)
    lines = [process.stdout.readline().decode() for _ in range(4)]
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr.read() == b""
    if flags:
        assert all(json.loads(line)["workers"][0]["num_running"] == 3 for line in lines)
    else:
        assert "alpha/0 running 3/16, waiting 5 (1 at 50, 4 at 10), parked 2" in lines[0]
        assert "no numbers from far:50052" in lines[1]
    assert all("\x1b" not in line for line in lines)
