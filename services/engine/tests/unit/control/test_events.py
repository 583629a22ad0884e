import pytest

from caravan_engine.control.events import (
    ControlError,
    Failed,
    LoadPhase,
    ModelDetails,
    Progress,
    Ready,
    decode,
    encode,
)
from caravan_rpckit.errors import Reason

EVENTS = [
    Progress(phase=LoadPhase.LOADING, fraction=0.25),
    Ready(
        port=50060,
        details=ModelDetails(
            architecture="llama",
            description="ä\nb",
            context_tokens=1,
            cell_count=2,
            vocabulary_size=3,
            layer_count=4,
            has_chat_template=True,
        ),
    ),
    Failed(reason=Reason.MODEL_TOO_LARGE, message="no", metadata={"needed_bytes": "1"}),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_an_event_is_one_line_and_comes_back_equal(event):
    line = encode(event)

    assert (line.count(b"\n"), decode(line)) == (1, event)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"{}",
        b'{"event": "party"}',
        b'{"event": "progress", "phase": "loading", "fraction": 2}',
        b'{"event": "failed", "reason": "NEVER_HEARD", "message": ""}',
        b"\xff",
    ],
)
def test_anything_else_is_refused(line):
    with pytest.raises(ControlError):
        decode(line)
