import asyncio
import os
import signal
from typing import ClassVar

import pytest
from pydantic import Field

from caravan_rpckit.errors import CaravanError, Reason
from caravan_servicekit.process import ExitCode, run_main, run_service
from caravan_servicekit.settings import Section, ServiceSettings


class PortTakenError(CaravanError):
    reason: ClassVar[Reason] = Reason.ADDRESS_IN_USE


class Server(Section):
    port: int = Field(1, ge=0, description="Port.")


class Example(ServiceSettings):
    service: ClassVar[str] = "policy"
    server: Server = Field(Server(), description="Listener.")


class FakeApplication:
    """Records its life; hooks run inside the phase of their name."""

    def __init__(self, **hooks):
        self.phases = []
        self._hooks = hooks

    async def _enter(self, phase):
        self.phases.append(phase)
        if phase in self._hooks:
            await self._hooks[phase]()
        self.phases.append(f"{phase} done")

    async def start(self):
        await self._enter("start")

    async def drain(self):
        await self._enter("drain")

    async def stop(self):
        await self._enter("stop")


async def ask_to_stop(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


async def ask_and_hang():
    await ask_to_stop()
    await asyncio.Event().wait()


async def fail_expectedly():
    raise PortTakenError("port 50053 is taken")


async def fail_unexpectedly():
    raise ZeroDivisionError("a bug")


WHOLE_LIFE = ["start", "start done", "drain", "drain done", "stop", "stop done"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_then_stops(number):
    application = FakeApplication()
    assert run_service(application, until=lambda: ask_to_stop(number)) == 0
    assert application.phases == WHOLE_LIFE


def test_a_signal_while_waiting_ends_the_wait():
    application = FakeApplication()
    assert run_service(application, until=ask_and_hang) == ExitCode.OK
    assert application.phases == WHOLE_LIFE


def test_the_end_of_until_drains_then_stops():
    application = FakeApplication()
    assert run_service(application, until=lambda: asyncio.sleep(0)) == ExitCode.OK
    assert application.phases == WHOLE_LIFE


def test_a_second_signal_cuts_the_drain_short():
    async def hang_in_drain():
        await ask_to_stop()
        await asyncio.sleep(0)
        await ask_and_hang()

    application = FakeApplication(drain=hang_in_drain)
    assert run_service(application, until=ask_to_stop) == 128 + signal.SIGTERM
    assert application.phases == ["start", "start done", "drain", "stop", "stop done"]


def test_a_signal_gives_up_a_start_and_stops():
    application = FakeApplication(start=ask_and_hang)
    assert run_service(application) == ExitCode.OK
    assert application.phases == ["start", "stop", "stop done"]


def test_an_expected_fault_is_one_line_without_traceback(capsys):
    application = FakeApplication(start=fail_expectedly)
    assert run_service(application) == ExitCode.CANNOT_START
    assert application.phases == ["start", "stop", "stop done"]
    assert capsys.readouterr().err == "ADDRESS_IN_USE: port 50053 is taken\n"


def test_an_unexpected_fault_comes_with_its_traceback(capsys):
    assert run_service(FakeApplication(start=fail_unexpectedly)) == ExitCode.UNEXPECTED
    assert "Traceback" in (text := capsys.readouterr().err)
    assert "ZeroDivisionError: a bug" in text


def test_a_fault_while_running_stops_and_is_reported(capsys):
    application = FakeApplication()
    assert run_service(application, until=fail_expectedly) == ExitCode.CANNOT_START
    assert application.phases == ["start", "start done", "stop", "stop done"]
    assert "port 50053" in capsys.readouterr().err


def test_a_start_that_cancels_itself_is_no_orderly_end(capsys):
    async def cancel_itself():
        raise asyncio.CancelledError

    assert run_service(FakeApplication(start=cancel_itself)) == ExitCode.UNEXPECTED
    assert "cancelled from inside" in capsys.readouterr().err


def test_main_gives_the_settings_to_the_application():
    seen = []

    def create(settings):
        seen.append(settings)
        return FakeApplication(start=ask_to_stop)

    assert run_main(Example, create, ["--server.port", "5"], {}) == ExitCode.OK
    assert seen[0].server.port == 5


def test_main_reports_settings_faults_with_their_own_code(capsys):
    code = run_main(Example, FakeApplication, ["--server.port=-1", "--server.x", "1"], {})
    assert code == ExitCode.SETTINGS
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_main_reports_a_fault_of_the_composition(capsys):
    def create(_):
        raise PortTakenError("taken")

    assert run_main(Example, create, [], {}) == ExitCode.CANNOT_START
    assert capsys.readouterr().err == "ADDRESS_IN_USE: taken\n"


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        ("--print-config", "port = 7"),
        ("--print-config=json", '"port": 7'),
        ("--help-settings", "| `server.port` |"),
        ("--help", "usage: python -m caravan_policy"),
    ],
)
def test_main_prints_what_is_asked_for_and_starts_nothing(flag, wanted, capsys):
    assert run_main(Example, pytest.fail, ["--server.port", "7", flag], {}) == ExitCode.OK
    assert wanted in capsys.readouterr().out
