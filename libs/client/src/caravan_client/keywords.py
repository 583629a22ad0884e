"""Checks the keyword arguments that are declared as a `TypedDict`.

Python itself does not: a mistyped name would be taken and ignored.
"""

from collections.abc import Mapping

from caravan_client.embedding import EmbedOptions
from caravan_client.generation import CallOptions, GenerateOptions, Sampling


def check_keywords(given: Mapping[str, object], declared: type) -> None:
    """Refuses what `declared`, a `TypedDict`, does not have, as Python does for a plain function.

    Raises:
        TypeError: names the keyword argument that is unknown or missing.
    """
    required: frozenset[str] = declared.__required_keys__  # type: ignore[attr-defined]  # TypedDict
    optional: frozenset[str] = declared.__optional_keys__  # type: ignore[attr-defined]  # TypedDict
    for name in sorted(given.keys() - required - optional):
        advice = "; it belongs into sampling=Sampling(...)" if _is_of_sampling(name) else ""
        raise TypeError(f"unexpected keyword argument {name!r}{advice}")
    for name in sorted(required - given.keys()):
        raise TypeError(f"missing keyword argument {name!r}")


def call_options(options: GenerateOptions | EmbedOptions) -> CallOptions:
    """The part of `options` that concerns the call, not the request."""
    call = CallOptions()
    if "timeout_s" in options:
        call["timeout_s"] = options["timeout_s"]
    if "request_id" in options:
        call["request_id"] = options["request_id"]
    if "traceparent" in options:
        call["traceparent"] = options["traceparent"]
    return call


def _is_of_sampling(name: str) -> bool:
    return name in Sampling.__dataclass_fields__
