"""Durations, sizes and times as people write them."""

import re
from datetime import datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d{1,9}[smhdw])+", re.ASCII)
_PART = re.compile(r"(\d+)([smhdw])", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Reads `30d`, `12h`, `1d12h`.

    Raises:
        ValueError: it is nothing like that, zero, or longer than Python can hold.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration such as 30d, 12h or 1d12h")
    try:
        duration = sum(
            (timedelta(**{_UNITS[unit]: int(count)}) for count, unit in _PART.findall(text)),
            timedelta(),
        )
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None
    if not duration:
        raise ValueError("it must be longer than nothing")
    return duration


def size_text(size_bytes: int) -> str:
    """Bytes in the unit that suits, 1 MB being 1,000,000."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def share_text(share: float | None) -> str:
    """A share of 0 to 1 in percent; nothing for none."""
    return "" if share is None else f"{share:.0%}"


def time_text(time: datetime | None) -> str:
    """A point in time where the person is; nothing for none."""
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M")
