"""How the command ends: exit statuses, and errors as one line or as JSON."""

import os
import sys
from enum import IntEnum

import typer

from caravan_client.cli.hints import hint_for
from caravan_client.cli.json_text import error_json
from caravan_client.cli.terminal_text import one_line
from caravan_client.errors import CaravanError, ErrorDetails


class ExitStatus(IntEnum):
    """What the command's exit status means."""

    OK = 0
    CALL_FAILED = 1
    USAGE = 2
    INTERRUPTED = 130
    READER_GONE = 141


def report_error(error: CaravanError, *, as_json: bool) -> None:
    """Prints `error` to stderr."""
    if as_json:
        _print(error_json(error))
        return
    parts = [f"{violation.field}: {violation.description}" for violation in error.field_violations]
    parts = parts or [error.message.rstrip(".")]  # else it would only repeat them
    parts += [f"{limit.subject}: {limit.description}" for limit in error.quota_violations]
    if error.retry_after_s is not None:
        parts.append(f"try again in {error.retry_after_s:.3g} s")
    if hint := hint_for(error):
        parts.append(hint)
    if error.request_id and error.code in ("INTERNAL", "UNKNOWN", "DATA_LOSS"):
        parts.append(f"the logs call it request {error.request_id}")
    _print(f"caravan: {error.reason}: {one_line('; '.join(parts))}")


def report_usage(message: str, help_command: str, *, as_json: bool) -> None:
    """Prints what is wrong with the command line to stderr."""
    if as_json:
        details = ErrorDetails(code="INVALID_ARGUMENT", reason="USAGE")
        _print(error_json(CaravanError(message, details)))
        return
    _print(f"caravan: {one_line(message)} (see `{help_command} --help`)")


def report_unexpected(error: Exception, *, as_json: bool) -> None:
    """Prints a fault of this command to stderr, without its traceback."""
    message = f"unexpected {type(error).__name__}: {error}"
    details = ErrorDetails(reason="COMMAND_FAILED", code="INTERNAL")
    if as_json:
        _print(error_json(CaravanError(message, details)))
        return
    _print(f"caravan: {one_line(message)}; CARAVAN_DEBUG=1 shows where")


def silence_stdout() -> None:
    """Lets nothing more be written to a pipe whose reader has gone, not even at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def _print(line: str) -> None:
    typer.echo(line, err=True)
