import io
import json
import logging
import sys
import threading
import warnings

import pytest

from caravan_obskit.logging import configure_logging
from caravan_obskit.redaction import redact


@pytest.fixture
def lines():
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    stream = io.StringIO()
    configure_logging("policy", level="info", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level, sys.excepthook, threading.excepthook = before


log = logging.getLogger("caravan.test")


def test_a_record_is_one_json_line_with_the_fixed_fields_first(lines):
    log.info("call %s", "ended", extra={"code": "OK", "duration_ms": 1.5})
    (line,) = lines()
    assert list(line)[:5] == ["timestamp", "level", "service", "logger", "message"]
    assert line["timestamp"].endswith("Z")
    assert len(line["timestamp"]) == len("2026-01-01T00:00:00.000Z")
    assert (line["message"], line["code"], line["duration_ms"]) == ("call ended", "OK", 1.5)


def test_lines_below_the_level_are_left_out(lines):
    log.debug("quiet")
    assert lines() == []


def test_line_breaks_stay_inside_their_line(lines):
    log.info('forged"}\n{"level": "INFO"', extra={"name_of_model": "a\nb"})
    assert len(lines()) == 1


def test_odd_values_are_written_as_text(lines):
    log.info("odd", extra={"a": float("nan"), "b": {1}, "c": {"d": float("inf")}, "e": b"\xff"})
    (line,) = lines()
    assert line["a"] == "nan"
    assert line["b"] == [1]
    assert line["c"] == {"d": "inf"}


def test_an_exception_is_one_line_with_its_trace(lines):
    try:
        raise ValueError("with key cvn_abc123")
    except ValueError:
        log.exception("failed")
    (line,) = lines()
    assert "Traceback" in line["exception"]
    assert "cvn_[redacted]" in line["exception"]


CANARIES = ["hunter2", "abc123"]


@pytest.mark.parametrize(
    "text",
    [
        "authorization: Bearer hunter2.abc123",
        "Authorization: bearer hunter2",
        "got cvn_abc123_hunter2!",
        "postgresql://user:hunter2@host/db",
        "api_key=hunter2&x=1",
        '{"password": "hunter2"}',
        "Authorization: Basic aHVudGVyMg==hunter2",
        "-----BEGIN EC PRIVATE KEY-----\nhunter2\nabc123\n-----END EC PRIVATE KEY-----",
    ],
)
def test_credentials_are_redacted_wherever_they_are(lines, text):
    log.info(text)
    log.info("%s", text)
    log.info("x", extra={"details": {"list": [text], text: 1}, "error": ValueError(text)})
    assert not any(canary in json.dumps(lines()) for canary in CANARIES)
    assert "[redacted]" in redact(text)


def test_fields_named_like_secrets_are_masked_whatever_they_hold(lines):
    log.info("x", extra={"api_key": "hunter2", "nested": {"admin-password": "hunter2"}})
    assert "hunter2" not in json.dumps(lines())


@pytest.mark.parametrize(
    "text",
    [
        "16 tokens generated, 3 cached tokens",
        "the bearer of this",
        "model bundled at spiffe://caravan/engine",
        "http://localhost:9090/metrics",
        "secrets are masked",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert redact(text) == text


def test_counts_of_tokens_are_no_secrets(lines):
    log.info("x", extra={"input_tokens": 5, "output_tokens": 6})
    assert lines()[0]["input_tokens"] == 5


def test_warnings_become_lines(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old habit", stacklevel=1)
    assert "old habit" in lines()[0]["message"]


def test_an_exception_that_ends_a_thread_becomes_a_line(lines):
    def fail():
        raise ValueError("password=hunter2")

    thread = threading.Thread(target=fail, name="worker-1")
    thread.start()
    thread.join()
    (line,) = lines()
    assert (line["level"], line["thread_name"]) == ("CRITICAL", "worker-1")
    assert "hunter2" not in line["exception"]


def test_an_exception_that_ends_the_process_becomes_a_line(lines):
    error = ValueError("bug")
    sys.excepthook(ValueError, error, None)
    assert "bug" in lines()[0]["exception"]


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="LOUD"):
        configure_logging("policy", level="loud")
