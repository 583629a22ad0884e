"""Checks of the data directory."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from caravan_client.cli.doctor.facts import FileMode, Home
from caravan_client.cli.doctor.findings import Finding, note, ok, problem, warning
from caravan_client.cli.quantities import size_text

LITTLE_DISK_BYTES = 2_000_000_000
NO_DISK_BYTES = 200_000_000
EXPIRES_SOON_S = 30 * 86400.0
CLOCK_SLACK_S = 60.0
LARGE_LOG_BYTES = 1_000_000_000

_DAY_S = 86400.0


def check_directory(home: Home) -> Iterator[Finding]:
    """Whether the services can write there."""
    if not home.exists:
        yield note(f"{home.path} does not exist yet", "the first `make run` makes it")
    elif not home.is_writable:
        yield problem(
            f"{home.path} cannot be written by this user",
            f'sudo chown -R "$(id -u)" {_quoted(home.path)}',
        )
    else:
        yield ok(f"{home.path} can be written")


def check_disk(home: Home) -> Iterator[Finding]:
    """Whether there is room for models, usage records and logs."""
    if home.free_bytes is None:
        return
    text = f"{size_text(home.free_bytes)} are free on the disk of {home.path}"
    mend = f"make room; `du -sh {_quoted(home.path)}/*` shows what takes it"
    if home.free_bytes < NO_DISK_BYTES:
        yield problem(f"only {text}", mend)
    elif home.free_bytes < LITTLE_DISK_BYTES:
        yield warning(f"only {text}", mend)
    else:
        yield ok(text)


def check_permissions(home: Home) -> Iterator[Finding]:
    """Whether secrets are kept from other users."""
    open_ones = [file for file in home.private_files if file.mode & 0o077]
    for file in open_ones:
        yield problem(f"{file.path} has mode {file.mode:o}: others may use it", _tighten(file))
    foreign = [file for file in home.private_files if not file.is_mine]
    if foreign:
        yield warning(
            f"{foreign[0].path} belongs to another user"
            + (f", and {len(foreign) - 1} more" if len(foreign) > 1 else ""),
            f'run as that user, or sudo chown -R "$(id -u)" {_quoted(home.path)}',
        )
    if home.private_files and not open_ones and not foreign:
        yield ok(f"{len(home.private_files)} secret files and folders are private")


def check_admin_key(home: Home) -> Iterator[Finding]:
    """Whether somebody can administer."""
    if home.exists and not home.has_admin_key:
        yield note("there is no admin.key; the first start of policy writes it")


def check_certificates(home: Home) -> Iterator[Finding]:
    """Whether the services will believe each other."""
    mend = "make restart, which makes new ones"
    for one in home.certificates:
        if one.fault:
            yield problem(f"the certificate of {one.service} is no good: {one.fault}", mend)
        elif one.end_time_s is not None and one.end_time_s - home.now_s < EXPIRES_SOON_S:
            days = max(0.0, (one.end_time_s - home.now_s) / _DAY_S)
            yield warning(f"the certificate of {one.service} ends in {days:.0f} days", mend)
    ends = [one.end_time_s for one in home.certificates if one.end_time_s is not None]
    good = len(ends) == len(home.certificates) > 0
    if good and min(ends) - home.now_s >= EXPIRES_SOON_S:
        days = (min(ends) - home.now_s) / _DAY_S
        yield ok(f"{len(ends)} certificates work, for {days:.0f} more days")
    if home.exists and not home.certificates:
        yield note("there are no certificates", "the first `make run` makes them")


def check_time(home: Home) -> Iterator[Finding]:
    """Whether the clock has been set back since files were written."""
    if home.newest_s is not None and home.newest_s > home.now_s + CLOCK_SLACK_S:
        behind = home.newest_s - home.now_s
        yield problem(
            f"the clock is {behind:.0f} s before the time when files were last written",
            "set the clock: timedatectl set-ntp true",
        )


def check_logs(home: Home) -> Iterator[Finding]:
    """What the services have complained of."""
    for log in home.logs:
        if log.num_errors:
            yield warning(
                f"{log.service} logged {log.num_errors} errors in the last hour; "
                f"the last: {log.last_error}",
                f'grep -E \'"level": "(ERROR|CRITICAL)"\' {_quoted(log.path)} | tail',
            )
        if log.size_bytes > LARGE_LOG_BYTES:
            yield note(f"{log.path} has {size_text(log.size_bytes)}", f": > {_quoted(log.path)}")
    if home.logs and not any(log.num_errors for log in home.logs):
        yield ok("no errors in the logs of the last hour")


def _tighten(file: FileMode) -> str:
    return f"chmod go= {_quoted(file.path)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
