"""The table of all checks. A new one is a function of the facts of one area, and a row here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from caravan_client.cli.doctor import (
    deployment_checks,
    home_checks,
    installation_checks,
    machine_checks,
)
from caravan_client.cli.doctor.facts import Deployment, Facts, Home, Installation, Machine
from caravan_client.cli.doctor.findings import Area, Diagnosis, Finding

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check(Generic[T]):
    """One check: which facts it looks at, and how. It is left out when they are not there."""

    area: Area
    name: str
    part: Callable[[Facts], T | None]
    look: Callable[[T], Iterator[Finding]]

    def run(self, facts: Facts) -> Iterator[Diagnosis]:
        """What it finds."""
        part = self.part(facts)
        if part is not None:
            for finding in self.look(part):
                yield Diagnosis(self.area, self.name, finding)


def _machine(name: str, look: Callable[[Machine], Iterator[Finding]]) -> Check[Machine]:
    return Check(Area.MACHINE, name, lambda facts: facts.machine, look)


def _installation(
    name: str, look: Callable[[Installation], Iterator[Finding]]
) -> Check[Installation]:
    return Check(Area.INSTALLATION, name, lambda facts: facts.installation, look)


def _home(name: str, look: Callable[[Home], Iterator[Finding]]) -> Check[Home]:
    return Check(Area.HOME, name, lambda facts: facts.home, look)


def _deployment(name: str, look: Callable[[Deployment], Iterator[Finding]]) -> Check[Deployment]:
    return Check(Area.DEPLOYMENT, name, lambda facts: facts.deployment, look)


CHECKS = (
    _machine("python", machine_checks.check_python),
    _machine("cpu", machine_checks.check_cpu),
    _machine("memory", machine_checks.check_memory),
    _machine("open files", machine_checks.check_open_files),
    _machine("clock", machine_checks.check_clock),
    _installation("environment", installation_checks.check_environment),
    _installation("build tools", installation_checks.check_tools),
    _installation("llama.cpp", installation_checks.check_llama),
    _installation("versions", installation_checks.check_versions),
    _installation("settings", installation_checks.check_settings),
    _home("directory", home_checks.check_directory),
    _home("disk", home_checks.check_disk),
    _home("permissions", home_checks.check_permissions),
    _home("admin key", home_checks.check_admin_key),
    _home("certificates", home_checks.check_certificates),
    _home("clock", home_checks.check_time),
    _home("logs", home_checks.check_logs),
    _deployment("services", deployment_checks.check_services),
    _deployment("gateway", deployment_checks.check_gateway),
    _deployment("key", deployment_checks.check_key),
    _deployment("models", deployment_checks.check_models),
    _deployment("usage records", deployment_checks.check_spool),
)


def examine(facts: Facts) -> list[Diagnosis]:
    """Runs all checks over the facts, in the order of the table."""
    return [diagnosis for check in CHECKS for diagnosis in check.run(facts)]
