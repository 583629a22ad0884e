"""What a check says: how bad it is, what was found, and how to mend it."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is; only a problem makes `caravan doctor` fail."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


class Area(StrEnum):
    """What is examined, in the order of the report."""

    MACHINE = "machine"
    INSTALLATION = "installation"
    HOME = "home"
    DEPLOYMENT = "deployment"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about something, and what mends it: a command where that is possible."""

    severity: Severity
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A finding with the check that made it."""

    area: Area
    check: str
    finding: Finding


def ok(text: str) -> Finding:
    """All is well."""
    return Finding(Severity.OK, text)


def note(text: str, mend: str = "") -> Finding:
    """Worth knowing, and nothing wrong."""
    return Finding(Severity.NOTE, text, mend)


def warning(text: str, mend: str = "") -> Finding:
    """Works, but not well or not for long."""
    return Finding(Severity.WARNING, text, mend)


def problem(text: str, mend: str = "") -> Finding:
    """Does not work."""
    return Finding(Severity.PROBLEM, text, mend)
