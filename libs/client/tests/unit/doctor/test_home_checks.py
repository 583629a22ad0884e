import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caravan_client.cli.doctor import home_checks as checks
from caravan_client.cli.doctor.certificates import try_certificate
from caravan_client.cli.doctor.facts import Certificate, FileMode, Home, LogFile
from caravan_client.cli.doctor.findings import Severity
from caravan_client.cli.doctor.home_probe import count_errors, home_directory, probe_home
from caravan_rpckit.certificates import ensure_certificates

NOW_S = 1_800_000_000.0
YEAR_S = 365 * 86400.0
GOOD = Home(
    path=Path("/data/.caravan"),
    exists=True,
    now_s=NOW_S,
    is_writable=True,
    free_bytes=50_000_000_000,
    private_files=(FileMode(Path("/data/.caravan/admin.key"), 0o600, is_mine=True),),
    has_admin_key=True,
    certificates=(Certificate("gateway", NOW_S + YEAR_S), Certificate("policy", NOW_S + YEAR_S)),
    newest_s=NOW_S - 5,
    logs=(LogFile("gateway", Path("/data/.caravan/logs/gateway.log"), 0, "", 1000),),
)
ALL = (
    checks.check_directory,
    checks.check_disk,
    checks.check_permissions,
    checks.check_admin_key,
    checks.check_certificates,
    checks.check_time,
    checks.check_logs,
)


@pytest.mark.parametrize("check", ALL)
def test_good_home_is_fine(check):
    assert {finding.severity for finding in check(GOOD)} <= {Severity.OK}


@pytest.mark.parametrize(
    ("check", "change", "severity", "mend"),
    [
        (checks.check_directory, {"exists": False}, Severity.NOTE, "make run"),
        (checks.check_directory, {"is_writable": False}, Severity.PROBLEM, "chown"),
        (checks.check_disk, {"free_bytes": 1_000_000_000}, Severity.WARNING, "du -sh"),
        (checks.check_disk, {"free_bytes": 1_000_000}, Severity.PROBLEM, "du -sh"),
        (
            checks.check_permissions,
            {"private_files": (FileMode(Path("/a b/admin.key"), 0o644, is_mine=True),)},
            Severity.PROBLEM,
            "chmod go= '/a b/admin.key'",
        ),
        (
            checks.check_permissions,
            {"private_files": (FileMode(Path("/a/admin.key"), 0o600, is_mine=False),)},
            Severity.WARNING,
            "chown",
        ),
        (checks.check_admin_key, {"has_admin_key": False}, Severity.NOTE, ""),
        (
            checks.check_certificates,
            {"certificates": (Certificate("policy", fault="certificate has expired"),)},
            Severity.PROBLEM,
            "make restart",
        ),
        (
            checks.check_certificates,
            {"certificates": (Certificate("policy", NOW_S + 3 * 86400),)},
            Severity.WARNING,
            "make restart",
        ),
        (checks.check_certificates, {"certificates": ()}, Severity.NOTE, "make run"),
        (checks.check_time, {"newest_s": NOW_S + 3600}, Severity.PROBLEM, "timedatectl"),
        (
            checks.check_logs,
            {"logs": (LogFile("engine", Path("/l/engine.log"), 3, "no memory", 5),)},
            Severity.WARNING,
            "grep",
        ),
    ],
)
def test_what_is_wrong_is_told_with_what_mends_it(check, change, severity, mend):
    (finding,) = check(replace(GOOD, **change))
    assert finding.severity is severity
    assert mend in finding.mend


def line(level: str, message: str, minutes_ago: int = 1) -> str:
    moment = datetime(2027, 1, 1, tzinfo=UTC) - timedelta(minutes=minutes_ago)
    return f'{{"timestamp": "{moment.isoformat()}", "level": "{level}", "message": "{message}"}}'


def test_errors_of_late_are_counted_without_secrets():
    lines = [
        line("ERROR", "old", minutes_ago=90),
        line("INFO", "fine"),
        line("CRITICAL", "first"),
        "no json",
        "[1]",
        '{"level": "ERROR", "timestamp": "nonsense"}',
        line("ERROR", "refused cvn_abc_SECRET and Bearer xyz at https://u:pw@host"),
    ]
    number, last = count_errors(lines, datetime(2026, 12, 31, 23, tzinfo=UTC))
    assert number == 2
    assert "SECRET" not in last
    assert "xyz" not in last
    assert "pw" not in last
    assert last.startswith("refused [redacted]")


def test_home_is_the_named_one_or_the_one_here_or_that_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARAVAN_HOME", str(tmp_path / "named"))
    assert home_directory(None) == tmp_path / "named"
    monkeypatch.delenv("CARAVAN_HOME")
    assert home_directory(None) == tmp_path / ".caravan"
    assert home_directory(Path("/src")) == Path("/src/.caravan")
    (tmp_path / ".caravan").mkdir()
    assert home_directory(Path("/src")) == tmp_path / ".caravan"


def test_home_that_does_not_exist_is_only_noted(tmp_path):
    home = probe_home(tmp_path / "none")
    assert not home.exists
    assert home.free_bytes


def test_home_is_probed_without_keeping_its_secrets(tmp_path):
    ensure_certificates(tmp_path)
    key = tmp_path / "admin.key"
    key.write_text("cvn_id_SECRET")
    key.chmod(0o640)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "gateway.log").write_text(line("INFO", "fine"))
    home = probe_home(tmp_path)
    assert [one.service for one in home.certificates if not one.fault] == [
        *("gateway", "policy", "telemetry", "engine")
    ]
    (finding,) = [one for one in checks.check_permissions(home) if one.mend]
    assert "admin.key has mode 640" in finding.text
    assert "SECRET" not in repr(home)
    assert "PRIVATE" not in repr(home)


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    ensure_certificates(home)
    return home / "certs"


def tried(certs: Path, *, ca="ca.crt", certificate="policy.crt", key="policy.key") -> Certificate:
    return try_certificate("policy", certs / ca, certs / certificate, certs / key)


def test_good_certificate_tells_its_end(certs):
    certificate = tried(certs)
    assert certificate.fault == ""
    assert certificate.end_time_s == pytest.approx(time.time() + YEAR_S, abs=86400)


def test_certificate_is_refused_for_what_a_peer_would_refuse(certs, tmp_path):
    assert tried(certs, key="none.key").fault == "none.key is missing"
    assert "is not the key of" in tried(certs, key="engine.key").fault
    ensure_certificates(tmp_path)
    stranger = try_certificate(
        "policy", tmp_path / "certs" / "ca.crt", certs / "policy.crt", certs / "policy.key"
    )
    assert stranger.fault
    (tmp_path / "broken.crt").write_text("nonsense")
    broken = try_certificate(
        "policy", certs / "ca.crt", tmp_path / "broken.crt", certs / "policy.key"
    )
    assert "damaged" in broken.fault


def test_expired_certificate_is_told(tmp_path):
    ensure_certificates(tmp_path, now=datetime.now(UTC) - timedelta(days=400))
    assert "expired" in tried(tmp_path / "certs").fault


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_key_is_told(certs, tmp_path):
    locked = tmp_path / "policy.key"
    locked.write_bytes((certs / "policy.key").read_bytes())
    locked.chmod(0)
    one = try_certificate("policy", certs / "ca.crt", certs / "policy.crt", locked)
    assert "cannot be read" in one.fault
