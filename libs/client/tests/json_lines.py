"""What a command printed with `--json`."""

import json


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]
