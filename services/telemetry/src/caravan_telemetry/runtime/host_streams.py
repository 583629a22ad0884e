"""Follows the streams of engine hosts, and lets go of them when the service stops."""

import asyncio
import logging
from collections.abc import AsyncIterator

from caravan_rpckit.errors import FieldViolation
from caravan_telemetry.domain.errors import (
    DrainingError,
    HostTakenOverError,
    InvalidFieldsError,
)
from caravan_telemetry.domain.worker_report import HostReport, check_report
from caravan_telemetry.domain.worker_totals import HostSession, WorkerTotals

_log = logging.getLogger("caravan.telemetry.hosts")


class HostStreams:
    """One `follow` per stream. Belongs to the event loop."""

    def __init__(self, totals: WorkerTotals) -> None:
        self._totals = totals
        self._scopes: set[asyncio.Timeout] = set()
        self._draining = False

    async def follow(self, reports: AsyncIterator[HostReport]) -> None:
        """Takes reports until the stream ends; with it the host's workers are gone.

        Raises:
            InvalidFieldsError: a report is not valid, or speaks for another host.
            HostTakenOverError: a newer stream speaks for this host.
            DrainingError: the service is stopping.
        """
        if self._draining:
            raise DrainingError
        scope = asyncio.timeout(None)
        self._scopes.add(scope)
        try:
            async with scope:
                await self._take_all(reports)
        except TimeoutError:
            raise DrainingError from None
        finally:
            self._scopes.discard(scope)

    def drain(self) -> None:
        """Ends all streams, and refuses new ones."""
        self._draining = True
        for scope in self._scopes:
            scope.reschedule(asyncio.get_running_loop().time())

    async def _take_all(self, reports: AsyncIterator[HostReport]) -> None:
        session: HostSession | None = None
        try:
            async for report in reports:
                check_report(report)
                session = session or self._join(report.host_id)
                _check_host(session, report)
                self._totals.report(session, report.workers)
        except HostTakenOverError:
            _log.warning("another stream speaks for this host", extra=_named(session))
            raise
        finally:
            if session is not None:
                self._totals.leave(session)
                _log.info("host left", extra=_named(session))

    def _join(self, host_id: str) -> HostSession:
        session = self._totals.join(host_id)
        _log.info("host joined", extra=_named(session))
        return session


def _check_host(session: HostSession, report: HostReport) -> None:
    if report.host_id != session.host_id:
        raise InvalidFieldsError([FieldViolation("host_id", "must not change within a stream")])


def _named(session: HostSession | None) -> dict[str, str]:
    return {"host_id": session.host_id if session else ""}
