"""Prints what was found, for people and for programs."""

from collections import Counter
from collections.abc import Sequence

from caravan_client.cli.doctor.facts import Facts
from caravan_client.cli.doctor.findings import Area, Diagnosis, Severity
from caravan_client.cli.output import Output
from caravan_client.cli.terminal_text import one_line

_STYLES = {
    Severity.OK: "green",
    Severity.NOTE: "dim",
    Severity.WARNING: "yellow",
    Severity.PROBLEM: "bold red",
}
_MOST_SEVERE = len(Severity.PROBLEM)


def print_report(facts: Facts, found: Sequence[Diagnosis], output: Output) -> None:
    """A line for each finding, under it what mends it, and a sum."""
    for area in Area:
        skipped = facts.skipped.get(area)
        mine = [one for one in found if one.area is area]
        if not mine and not skipped:
            continue
        output.styled((area.value.capitalize(), "bold"))
        if skipped:
            output.styled(("  -  ", "dim"), (skipped, "dim"))
        for one in mine:
            _print(one, output)
    output.line("")
    output.line(summary(found))


def print_json(facts: Facts, found: Sequence[Diagnosis], output: Output) -> None:
    """One document."""
    output.document(
        {
            "healthy": is_healthy(found),
            "findings": [
                {
                    "area": one.area,
                    "check": one.check,
                    "severity": one.finding.severity,
                    "text": one.finding.text,
                    "mend": one.finding.mend,
                }
                for one in found
            ],
            "skipped": facts.skipped,
        }
    )


def is_healthy(found: Sequence[Diagnosis]) -> bool:
    """Whether there is no problem; a warning is none."""
    return not any(one.finding.severity is Severity.PROBLEM for one in found)


def summary(found: Sequence[Diagnosis]) -> str:
    """The last line."""
    counts = Counter(one.finding.severity for one in found)
    problems, warnings = counts[Severity.PROBLEM], counts[Severity.WARNING]
    words = [_counted(problems, "problem"), _counted(warnings, "warning")]
    told = ", ".join(word for word in words if word)
    return told or "all is well"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}" if number else ""


def _print(one: Diagnosis, output: Output) -> None:
    severity = one.finding.severity
    style = _STYLES[severity]
    output.styled(
        (f"  {severity:<{_MOST_SEVERE}}  ", style),
        (f"{one.check}: {one_line(one.finding.text)}", ""),
    )
    if one.finding.mend:
        output.styled((f"  {'':<{_MOST_SEVERE}}  -> {one_line(one.finding.mend)}", "cyan"))
