"""Gathers the facts of the areas that were asked for, and says what is left out and why."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caravan_client.cli.doctor.bounded import PROBE_S, PROCESS_S, gather
from caravan_client.cli.doctor.deployment_probe import Target, probe_deployment
from caravan_client.cli.doctor.facts import Deployment, Facts, Home, Installation, Machine
from caravan_client.cli.doctor.findings import Area
from caravan_client.cli.doctor.home_probe import home_directory, probe_home
from caravan_client.cli.doctor.installation_probe import has_services, probe_installation
from caravan_client.cli.doctor.machine_probe import probe_machine

if TYPE_CHECKING:
    from caravan_client.sync_client import Caravan

_CLIENT_ONLY = "skipped: only the client is installed here"
_LATE = "skipped: it could not be examined in time"


@dataclass(frozen=True, slots=True)
class Question:
    """What to look at.

    Attributes:
        areas: which.
        root: the checkout, where there is one.
        address: the gateway's, as given.
        is_local: whether it is on this computer.
        key_id: the public part of the API key.
        connect: makes a client of the gateway.
    """

    areas: Collection[Area]
    root: Path | None
    address: str | None
    is_local: bool
    key_id: str
    client_version: str
    connect: Callable[[], "Caravan"]


def collect(question: Question) -> Facts:
    """Looks at everything at once; nothing takes longer than the slowest bounded probe."""
    home = home_directory(question.root)
    served_here = has_services(question.root) or home.is_dir()
    target = Target(
        question.address,
        question.connect,
        question.key_id,
        question.client_version,
        has_services=served_here and question.is_local,
        home=home,
        can_start=question.root is not None,
    )
    skipped: dict[str, str] = {}
    probes: dict[str, Callable[[], object]] = {
        Area.MACHINE: probe_machine,
        Area.DEPLOYMENT: lambda: probe_deployment(target),
    }
    if has_services(question.root):
        probes[Area.INSTALLATION] = lambda: probe_installation(question.root)
    else:
        skipped[Area.INSTALLATION] = _CLIENT_ONLY
    if served_here:
        probes[Area.HOME] = lambda: probe_home(home)
    else:
        skipped[Area.HOME] = f"skipped: there is no data directory {home}"
    wanted = {area: probe for area, probe in probes.items() if area in question.areas}
    found = gather(wanted, limit_s=PROCESS_S + PROBE_S)
    skipped |= dict.fromkeys(wanted.keys() - found.keys(), _LATE)
    return _facts(found, {a: why for a, why in skipped.items() if a in question.areas})


def _facts(found: dict[str, object], skipped: dict[str, str]) -> Facts:
    machine, home = found.get(Area.MACHINE), found.get(Area.HOME)
    installation, deployment = found.get(Area.INSTALLATION), found.get(Area.DEPLOYMENT)
    return Facts(
        machine if isinstance(machine, Machine) else None,
        installation if isinstance(installation, Installation) else None,
        home if isinstance(home, Home) else None,
        deployment if isinstance(deployment, Deployment) else None,
        skipped,
    )
