"""Looks at the data directory: who may read it, whether certificates work, what logs complain of.

Reads private keys only to try them; nothing of them is kept.
"""

import json
import os
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from caravan_client.cli.doctor.certificates import try_certificate
from caravan_client.cli.doctor.facts import SERVICES, Certificate, FileMode, Home, LogFile

LOG_WINDOW = timedelta(hours=1)

_LOG_TAIL_BYTES = 1 << 20
_ERROR_LEVELS = ("ERROR", "CRITICAL")
_SECRETS = re.compile(r"(?i)(cvn_[a-z0-9_]+|bearer\s+\S+|://[^/\s:@]+:[^/\s@]+@)")
_ERROR_CHARS = 160


def home_directory(root: Path | None) -> Path:
    """Where the deployment keeps its data: CARAVAN_HOME, ./.caravan, or that of the checkout."""
    if named := os.environ.get("CARAVAN_HOME"):
        return Path(named).expanduser().resolve()
    here = Path(".caravan").resolve()
    if root is not None and not here.exists():
        return root / ".caravan"
    return here


def probe_home(path: Path) -> Home:
    """Everything about the data directory that a check wants."""
    now_s = time.time()
    if not path.is_dir():
        return Home(path, exists=False, now_s=now_s, free_bytes=_free_bytes(path))
    logs = tuple(
        log for name in SERVICES if (log := _read_log(name, path / "logs" / f"{name}.log", now_s))
    )
    return Home(
        path,
        exists=True,
        now_s=now_s,
        is_writable=os.access(path, os.W_OK | os.X_OK),
        free_bytes=_free_bytes(path),
        private_files=tuple(_private_files(path)),
        has_admin_key=(path / "admin.key").is_file(),
        certificates=_certificates(path / "certs"),
        newest_s=_newest(path),
        logs=logs,
    )


def count_errors(lines: list[str], since: datetime) -> tuple[int, str]:
    """How many lines tell of errors since then, and what the last one says, without secrets."""
    number, last = 0, ""
    for line in lines:
        entry = _entry(line)
        if entry is None or entry.get("level") not in _ERROR_LEVELS:
            continue
        moment = _moment(entry.get("timestamp"))
        if moment is None or moment < since:
            continue
        number += 1
        last = str(entry.get("message", ""))
    text = _SECRETS.sub("[redacted]", " ".join(last.split()))
    return number, text if len(text) <= _ERROR_CHARS else f"{text[: _ERROR_CHARS - 1]}…"


def _entry(line: str) -> dict[str, object] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _read_log(service: str, path: Path, now_s: float) -> LogFile | None:
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            file.seek(max(0, size_bytes - _LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    since = datetime.fromtimestamp(now_s, UTC) - LOG_WINDOW
    number, last = count_errors(lines, since)
    return LogFile(service, path, number, last, size_bytes)


def _private_files(home: Path) -> list[FileMode]:
    """What nobody else may read."""
    certs = home / "certs"
    paths = [home / "admin.key", certs, *sorted(certs.glob("*.key"))]
    paths += [home / name for name in SERVICES]
    found = []
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            continue
        found.append(FileMode(path, state.st_mode & 0o777, state.st_uid == os.geteuid()))
    return found


def _certificates(folder: Path) -> tuple[Certificate, ...]:
    if not folder.is_dir():
        return ()
    return tuple(
        try_certificate(name, folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key")
        for name in SERVICES
    )


def _free_bytes(path: Path) -> int | None:
    """Of the disk that the folder is on, or would be."""
    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def _newest(home: Path) -> float | None:
    times = []
    for path in (*home.glob("logs/*.log"), *home.glob("certs/*"), home / "admin.key"):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=None)
