"""Values of the SDK as JSON."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime

from caravan_client.errors import CaravanError
from caravan_client.generation import Event


def to_json(value: object) -> str:
    """One JSON document on one line."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def event_json(event: Event) -> str:
    """An event of a stream with its kind first."""
    return to_json({"event": type(event).__name__.lower(), **_members(event)})


def error_json(error: CaravanError) -> str:
    """What is known of a failure."""
    return to_json(
        {
            "error": {
                "code": error.code,
                "reason": error.reason,
                "message": error.message,
                "metadata": error.metadata,
                "retry_after_s": error.retry_after_s,
                "field_violations": error.field_violations,
                "quota_violations": error.quota_violations,
                "request_id": error.request_id,
            }
        }
    )


def _plain(value: object) -> object:
    if is_dataclass(value):
        return _members(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def _members(value: object) -> dict[str, object]:
    names = [entry.name for entry in fields(value)]  # type: ignore[arg-type]  # a dataclass
    return {name: _plain(getattr(value, name)) for name in names}
