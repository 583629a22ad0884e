"""Takes credentials out of text before it is written anywhere. The last net, not the first."""

import math
import re
from collections.abc import Mapping

MASK = "[redacted]"

_PATTERNS = (
    # An authorization header, whatever its scheme's credentials look like.
    re.compile(r"(?P<kept>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{4,}", re.IGNORECASE),
    # Our own API keys.
    re.compile(r"(?P<kept>\bcvn_)[A-Za-z0-9_.-]+"),
    # user:password@host in URLs of databases.
    re.compile(r"(?P<kept>://[^\s:/@]*:)[^\s/@]+(?=@)"),
    # name=value and "name": "value" of what is called a secret.
    re.compile(
        r"(?P<kept>\b(?:api[_-]?key|password|passwd|secret|authorization)[\"']?\s*[=:]\s*[\"']?)"
        r"(?!\[redacted\]|\*+|(?:bearer|basic)\b)[^\s\"',;&}]+",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<kept>-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)",
        re.DOTALL,
    ),
)
_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:api[_-]?key|password|passwd|secret|authorization|credential)s?$", re.IGNORECASE
)


def redact(text: str) -> str:
    """Returns `text` with everything that looks like a credential replaced by a mask."""
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<kept>{MASK}", text)
    return text


def redacted(value: object) -> object:
    """Returns a JSON-ready copy of `value`, redacted at every depth, by name and by looks."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN and no infinity
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {
            redact(str(key)): MASK if is_secret_name(str(key)) else redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redacted(item) for item in value]
    return redact(str(value))


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a credential, so that no value of it is shown."""
    return _SECRET_NAME.search(name) is not None
