"""Wires the first administrator's key to database and file: at each start, and for a reset."""

import logging
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL, Engine

from caravan_obskit.logging import configure_logging
from caravan_policy.config import PolicySettings
from caravan_policy.domain.authenticator import Authenticator
from caravan_policy.domain.errors import PolicyError
from caravan_policy.domain.first_start import FirstStart
from caravan_policy.storage.admin_key_file import HomeAdminKeyFile
from caravan_policy.storage.database import open_database, sqlite_url
from caravan_policy.storage.sql_reader import SqlReader
from caravan_policy.storage.sql_writer import SqlWriter
from caravan_servicekit.data_directory import DataDirectory

RESET_FLAG = "--reset-admin-key"

_log = logging.getLogger("caravan.policy")


class AdminKeyReset:
    """`--reset-admin-key`: writes a new admin key and ends. The service must be stopped."""

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings

    @classmethod
    def create(cls, settings: PolicySettings) -> "AdminKeyReset":
        """Makes what this process does instead of the service."""
        configure_logging("policy", level=settings.log.level)
        return cls(settings)

    async def start(self) -> None:
        """Does it.

        Raises:
            CaravanError: the service is running, or a file cannot be read or written.
        """
        settings = self._settings
        with DataDirectory.open(settings.home, "policy") as directory:
            engine = open_database(database_url(settings, directory.path))
            try:
                issued = _first_start(settings, engine).reset_admin_key()
            finally:
                engine.dispose()
        _log.info(
            "admin key reset",
            extra={
                "file": str(_path(settings)),
                "key_id": issued.key_id,
                "replaced_key_id": issued.replaced_key_id,
            },
        )

    async def drain(self) -> None:
        """Nothing runs."""

    async def stop(self) -> None:
        """Nothing is held."""


def set_up(settings: PolicySettings, engine: Engine) -> None:
    """Makes the first administrator where there is none, and looks whether the key file is good.

    Blocks; call it off the event loop.

    Raises:
        StoreUnusableError: the key file cannot be written; then nothing was set up.
    """
    issued = _first_start(settings, engine).ensure()
    if issued is not None:
        _log.info(
            "admin key written", extra={"file": str(_path(settings)), "key_id": issued.key_id}
        )
        return
    fault = _key_fault(settings, engine)
    if fault is not None:
        _log.warning(
            "%s; if no other admin key is at hand, stop the service and run "
            "`python -m caravan_policy %s`",
            fault,
            RESET_FLAG,
            extra={"file": str(_path(settings))},
        )


def database_url(settings: PolicySettings, directory: Path) -> str | URL:
    """The database that the settings name; by default a file in the data directory."""
    url = settings.database.url
    return sqlite_url(directory / "policy.db") if url is None else url.get_secret_value()


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def _key_fault(settings: PolicySettings, engine: Engine) -> str | None:
    authenticator = Authenticator(SqlReader(engine), utc_now, lambda _: None)
    try:
        credential = HomeAdminKeyFile(_path(settings)).read()
        if credential is None:
            return "the admin key file is missing"
        authenticator.authenticate(credential)
    except PolicyError as error:
        return f"the key in the admin key file does not work ({error.reason})"
    return None


def _first_start(settings: PolicySettings, engine: Engine) -> FirstStart:
    return FirstStart(SqlWriter(engine), HomeAdminKeyFile(_path(settings)), utc_now)


def _path(settings: PolicySettings) -> Path:
    return settings.home / "admin.key"
