"""A scripted stand-in for a worker: its settings line is a list of [action, argument]."""

import json
import os
import sys
import time

from caravan_engine.control.events import (
    Failed,
    LoadPhase,
    ModelDetails,
    Progress,
    Ready,
    encode,
)
from caravan_rpckit.errors import Reason

DETAILS = ModelDetails(
    architecture="llama",
    description="a dummy",
    context_tokens=64,
    cell_count=128,
    vocabulary_size=10,
    layer_count=2,
    has_chat_template=False,
)


def say(event):
    os.write(1, encode(event))


ACTIONS = {
    "progress": lambda fraction: say(Progress(phase=LoadPhase.LOADING, fraction=fraction)),
    "ready": lambda port: say(Ready(port=port, details=DETAILS)),
    "failed": lambda text: say(Failed(reason=Reason.MODEL_FILE_INVALID, message=text)),
    "print": lambda text: os.write(1, text.encode()),
    "log": lambda text: os.write(2, text.encode() + b"\n"),
    "serve": lambda _: sys.stdin.read(),
    "deaf": lambda _: time.sleep(600),
    "exit": sys.exit,
}


for action, argument in json.loads(sys.stdin.readline()):
    ACTIONS[action](argument)
