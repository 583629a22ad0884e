"""Prompts, answers and keys must not be found anywhere outside the call itself."""

import io
import logging

import pytest
from gateway_client import KEY, failure_of, ops, until

from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan_obskit.logging import JsonFormatter

PROMPT = "canary-prompt-5f1c"
WRONG_KEY = "cvn_canary-key-77aa"


@pytest.fixture
def written():
    """Everything that is logged at any level, as it would be written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("gateway"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


async def test_a_canary_is_in_no_log_metric_error_or_record(
    written, client, gateway, policy, telemetry, home, capfd
):
    errors = []
    chat = generation_pb.Chat(messages=[generation_pb.ChatMessage(role=99, content=PROMPT)])
    for call in (
        client.generate(PROMPT),
        client.stream(PROMPT),
        client.generate(PROMPT, stop=[PROMPT * 20]),
        client.generate(None, chat=chat),
        client.generate(PROMPT, labels={PROMPT * 9: PROMPT}),
        client.generate(PROMPT, metadata=(("authorization", f"Bearer {WRONG_KEY}"),)),
        client.generate(PROMPT, metadata=(("authorization", f"Basic {WRONG_KEY}"),)),
    ):
        try:
            errors.append(str(await failure_of(call)))
        except AssertionError:
            continue
    policy.revoke(KEY)
    errors.append(str(await failure_of(client.generate(PROMPT))))
    await until(lambda: len(telemetry.records) >= 5, "the records")
    telemetry_text = str(telemetry.records)
    await telemetry.stop()
    _, metrics = await ops(gateway)
    captured = capfd.readouterr()
    files = b"".join(path.read_bytes() for path in (home / "gateway").rglob("*") if path.is_file())

    assert len(errors) == 6
    for secret in (PROMPT, WRONG_KEY, "canary-key", KEY):
        for place in (str(errors), written.getvalue(), metrics, telemetry_text):
            assert secret not in place
        assert secret not in captured.err + captured.out
        assert secret.encode() not in files
