"""What is wrong with given settings, said in one line for each fault."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import ValidationError

from caravan_rpckit.errors import CaravanError, FieldViolation, Reason
from caravan_servicekit.settings_fields import FieldPath, Setting

_MOST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class SettingsFault:
    """One wrong setting: where, what was given and by whom, what is allowed."""

    name: str
    given: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.name}: {self.given}; allowed: {self.allowed}"


class SettingsError(CaravanError):
    """The settings of a service are wrong; `faults` has all of them, the message one per line."""

    reason: ClassVar[Reason] = Reason.INVALID_CONFIGURATION

    def __init__(self, service: str, faults: Sequence[SettingsFault]) -> None:
        super().__init__(
            "\n".join(f"{service}: {fault}" for fault in faults),
            field_violations=[FieldViolation(fault.name, fault.allowed) for fault in faults],
        )
        self.faults = tuple(faults)


def unknown_setting(name: str, origin: str, known: Sequence[str]) -> SettingsFault:
    """A fault for a name that no setting has; never shows its value, which may be a secret."""
    close = get_close_matches(name, known, n=1, cutoff=0.75)
    hint = f", did you mean {close[0]}?" if close else ""
    return SettingsFault(name, f"unknown setting ({origin}){hint}", "what --help-settings lists")


def validation_faults(
    error: ValidationError,
    settings: Mapping[FieldPath, Setting],
    origins: Mapping[FieldPath, str],
) -> list[SettingsFault]:
    """Turns pydantic's findings into faults that name the source of each value."""
    return [
        _validation_fault(dict(detail), settings, origins)
        for detail in error.errors(include_url=False)
    ]


def _validation_fault(
    detail: dict[str, Any],
    settings: Mapping[FieldPath, Setting],
    origins: Mapping[FieldPath, str],
) -> SettingsFault:
    location: tuple[str | int, ...] = detail["loc"]
    path, setting = _closest(location, settings)
    name = ".".join(str(part) for part in location) or "settings"
    if setting is None:  # a rule between several settings
        return SettingsFault(name, "settings contradict each other", _own_words(detail))
    if detail["type"] == "missing" and path == location:
        return SettingsFault(name, "not set", setting.allowed)
    shown = "a secret" if setting.is_secret else _shortened(repr(detail["input"]))
    by_validator = detail["type"] in ("value_error", "assertion_error")
    allowed = _own_words(detail) if by_validator else setting.allowed
    return SettingsFault(name, f"given {shown} ({origins[path]})", allowed)


def _closest(
    location: tuple[str | int, ...], settings: Mapping[FieldPath, Setting]
) -> tuple[FieldPath, Setting | None]:
    for length in range(len(location), 0, -1):
        path = tuple(str(part) for part in location[:length])
        if path in settings:
            return path, settings[path]
    return (), None


def _own_words(detail: dict[str, Any]) -> str:
    return str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
