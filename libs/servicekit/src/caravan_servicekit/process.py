"""The life of a service's process: settings, start, signals, drain, stop, exit code.

Only `__main__` exits: everything here returns the code.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from enum import IntEnum
from typing import Any, Protocol, TypeVar

from caravan_rpckit.errors import CaravanError
from caravan_servicekit.settings import ServiceSettings, load_settings
from caravan_servicekit.settings_faults import SettingsError
from caravan_servicekit.settings_fields import settings_of
from caravan_servicekit.settings_report import as_json, as_toml, help_text, masked, settings_table
from caravan_servicekit.settings_sources import Action, parse_command_line

S = TypeVar("S", bound=ServiceSettings)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger(__name__)


class ExitCode(IntEnum):
    """What a service's process returns; a second signal adds 128 + its number."""

    OK = 0
    UNEXPECTED = 1
    SETTINGS = 2
    CANNOT_START = 3


class Application(Protocol):
    """A service as its process sees it. `stop` also has to end what a failed `start` left."""

    async def start(self) -> None:
        """Becomes ready, or raises."""

    async def drain(self) -> None:
        """Takes no new work and lets the running work finish, within its own time limit."""

    async def stop(self) -> None:
        """Ends everything and frees what it holds; called exactly once."""


def run_main(
    settings_type: type[S],
    create: Callable[[S], Application],
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    until: Callable[[], Awaitable[object]] | None = None,
) -> int:
    """Loads the settings and runs the service, or prints what the arguments ask for.

    Args:
        settings_type: the service's settings tree.
        create: builds the application; configures logging first.
        arguments: flags, without the program's name; those of the process by default.
        environment: variables; those of the process by default.
        until: see `run_service`.

    Returns:
        The process's exit code.
    """
    try:
        action, settings = _read(
            settings_type,
            sys.argv[1:] if arguments is None else arguments,
            os.environ if environment is None else environment,
        )
        if settings is None or action != "run":
            print(_answer(action, settings_type, settings))
            return ExitCode.OK
        application = create(settings)
    except Exception as error:  # noqa: BLE001 (reported and turned into the exit code)
        return _report(error)
    _log.info("starting", extra={"service": settings.service, "settings": masked(settings)})
    return run_service(application, until=until)


def run_service(
    application: Application, *, until: Callable[[], Awaitable[object]] | None = None
) -> int:
    """Runs `application` until SIGTERM, SIGINT or the end of `until`; returns the exit code.

    The first signal drains, then stops; the second stops at once. A signal during the start gives
    up the start. An expected fault (`CaravanError`) is one clear line on stderr, any other comes
    with its traceback.

    Args:
        application: is started, drained and stopped.
        until: its end has the effect of a signal, its exception is a fault.
    """
    try:
        return asyncio.run(_Life(application, until).run())
    except Exception as error:  # noqa: BLE001 (reported and turned into the exit code)
        return _report(error)


class _Life:
    """One run of an application on one event loop."""

    def __init__(
        self, application: Application, until: Callable[[], Awaitable[object]] | None
    ) -> None:
        self._application = application
        self._until = until
        self._stop_wanted = asyncio.Event()
        self._stop_at_once = asyncio.Event()
        self._last_signal: signal.Signals | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            await self._run_until_asked()
        finally:
            await self._application.stop()
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
        if self._stop_at_once.is_set() and self._last_signal is not None:
            return 128 + self._last_signal
        return ExitCode.OK

    async def _run_until_asked(self) -> None:
        if await _unless(self._stop_wanted, self._application.start()):
            _log.info("started")
            if self._until is None:
                await self._stop_wanted.wait()
            else:
                await _unless(self._stop_wanted, _awaited(self._until()))
            _log.info("draining")
            await _unless(self._stop_at_once, self._application.drain())

    def _on_signal(self, number: signal.Signals) -> None:
        self._last_signal = number
        if self._stop_wanted.is_set():
            self._stop_at_once.set()
        self._stop_wanted.set()


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Runs `work`, cancelled as soon as `event` is set; tells whether it was finished."""
    task = asyncio.ensure_future(work)
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    if task.cancelled():
        if not event.is_set():  # by itself; must not look like an orderly end
            raise RuntimeError("a phase of the service was cancelled from inside")
        return False
    task.result()
    return True


async def _awaited(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _read(
    settings_type: type[S], arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[Action, S | None]:
    leaves, aliases = settings_of(settings_type), settings_type.all_aliases()
    line = parse_command_line(arguments, environment, leaves, aliases)
    if line.action in ("help", "help-settings"):
        return line.action, None
    return line.action, load_settings(settings_type, line, environment)


def _answer(action: Action, settings_type: type[S], settings: S | None) -> str:
    if settings is None:
        return help_text(settings_type) if action == "help" else settings_table(settings_type)
    return as_json(settings) if action == "print-json" else as_toml(settings)


def _report(error: Exception) -> ExitCode:
    if isinstance(error, SettingsError):
        print(error.message, file=sys.stderr)
        return ExitCode.SETTINGS
    if isinstance(error, CaravanError):
        print(f"{error.reason}: {error.message}", file=sys.stderr)
        return ExitCode.CANNOT_START
    # The hook prints the traceback, or logs it redacted where logging is set up so.
    sys.excepthook(type(error), error, error.__traceback__)
    return ExitCode.UNEXPECTED
