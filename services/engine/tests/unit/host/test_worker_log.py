import logging

from caravan_engine.host.worker_log import WorkerLog

CANARY = "canary-prompt"


def feed(lines, *, ready, caplog):
    passed = []
    log = WorkerLog("tiny#0", passed.append)
    with caplog.at_level(logging.WARNING):
        for line in lines:
            log.feed(line, ready=ready)
        log.close()
    return passed


def test_structured_lines_pass_as_they_are(caplog):
    assert feed([b'{"event": "x"}\n'], ready=True, caplog=caplog) == ['{"event": "x"}']


def test_unstructured_lines_of_a_ready_worker_are_counted_and_withheld(caplog):
    lines = [f"parse: error in {CANARY}".encode(), f"{{{CANARY}".encode(), b'"' + b"x" * 10]

    assert feed(lines, ready=True, caplog=caplog) == []
    assert CANARY not in caplog.text
    assert CANARY not in str([record.__dict__ for record in caplog.records])
    assert [record.lines for record in caplog.records] == [3]


def test_a_failed_assertion_is_shown(caplog):
    line = b"/src/ggml.c:123: GGML_ASSERT(n_tokens <= n_batch) failed"
    feed([line], ready=True, caplog=caplog)

    assert [record.output for record in caplog.records] == [line.decode()]


def test_an_assertion_with_quoted_text_is_withheld(caplog):
    line = f'/src/x.c:1: GGML_ASSERT("{CANARY}") failed'.encode()
    feed([line], ready=True, caplog=caplog)

    assert CANARY not in str([record.__dict__ for record in caplog.records])


def test_before_a_worker_is_ready_everything_is_shown(caplog):
    feed([b"Traceback: no module named x"], ready=False, caplog=caplog)

    assert "no module named x" in caplog.records[0].output


def test_numbers_pass_behind_their_mark_and_on_many_lines_if_asked(caplog):
    line = b'[METRICS] {"token": 1}\n'
    assert feed([line], ready=True, caplog=caplog) == ['[METRICS] {"token": 1}']

    passed = []
    WorkerLog("tiny#0", passed.append, prettifies_metrics=True).feed(line, ready=True)
    assert passed == ['[METRICS] {\n  "token": 1\n}']

    fake = f"[METRICS] {CANARY}".encode()
    assert feed([fake], ready=True, caplog=caplog) == []
