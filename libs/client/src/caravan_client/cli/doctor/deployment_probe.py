"""Looks at what runs: the services' ports on this computer, and the gateway as a client sees it."""

import http.client
import json
import os
import socket
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from caravan_client.cli.doctor.bounded import PROBE_S, gather
from caravan_client.cli.doctor.facts import SERVICES, Deployment, Gateway, Owner, Service
from caravan_client.cli.doctor.listeners import find_owners
from caravan_client.connection import DEFAULT_ADDRESS, is_loopback, parse_address
from caravan_client.errors import (
    CaravanError,
    DeadlineExceededError,
    NotFoundError,
    PermissionDeniedError,
)
from caravan_client.resources import GatewayStatus, Principal

if TYPE_CHECKING:
    from caravan_client.sync_client import Caravan

T = TypeVar("T")

_DEFAULTS = {
    "gateway": ("127.0.0.1:50051", "127.0.0.1:9091"),
    "policy": ("127.0.0.1:50053", "127.0.0.1:9093"),
    "telemetry": ("127.0.0.1:50054", "127.0.0.1:9090"),
    "engine": ("127.0.0.1:50052", "127.0.0.1:9092"),
}
_BODY_BYTES = 16_384
_NO_MODEL = "no-model-has-this-name"
_LATE = DeadlineExceededError("the gateway did not answer in time")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to look.

    Attributes:
        address: of the gateway, as given.
        connect: makes a client that waits briefly and does not retry; may refuse.
        key_id: the public part of the API key, if it has one.
        has_services: whether the services are to be on this computer.
        home: the data directory.
        can_start: whether there is a checkout to start them from.
    """

    address: str | None
    connect: Callable[[], "Caravan"]
    key_id: str
    client_version: str
    has_services: bool
    home: Path
    can_start: bool


def probe_deployment(target: Target) -> Deployment:
    """Everything about what runs that a check wants."""
    probes: dict[str, Callable[[], object]] = {"gateway": lambda: probe_gateway(target)}
    if target.has_services:
        probes["services"] = lambda: probe_services(service_addresses(os.environ))
    found = gather(probes, limit_s=4 * PROBE_S)
    gateway = found.get("gateway")
    if not isinstance(gateway, Gateway):
        gateway = Gateway(_shown(target.address), True, time.time(), fault=_LATE)
    services = found.get("services", ())
    return Deployment(
        services if isinstance(services, tuple) else (), gateway, target.home, target.can_start
    )


def service_addresses(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Where each service and its ops port are to be: default < CARAVAN_CONFIG < environment."""
    file = _config_file(environment.get("CARAVAN_CONFIG"))
    found = {}
    for name, defaults in _DEFAULTS.items():
        server = file.get(name, {}).get("server", {})
        addresses = []
        for field, default in zip(("address", "ops_address"), defaults, strict=True):
            variable = f"CARAVAN_{name.upper()}__SERVER__{field.upper()}"
            addresses.append(environment.get(variable) or str(server.get(field, default)))
        found[name] = (addresses[0], addresses[1])
    return found


def probe_services(addresses: Mapping[str, tuple[str, str]]) -> tuple[Service, ...]:
    """All services, side by side."""
    ports = {port for pair in addresses.values() for port in map(_port, pair) if port}
    probes: dict[str, Callable[[], object]] = {
        name: partial(_probe_service, name, *pair) for name, pair in addresses.items()
    }
    probes["owners"] = partial(find_owners, ports)
    found = gather(probes, limit_s=2 * PROBE_S)
    owners = found.get("owners", {})
    return tuple(
        _with_owners(service, owners if isinstance(owners, dict) else {})
        for name in SERVICES
        if isinstance(service := found.get(name), Service)
    )


def probe_gateway(target: Target) -> Gateway:
    """The gateway, through the key that a command would use."""
    now_s = time.time()
    shown = _shown(target.address)
    try:
        is_local = is_loopback(parse_address(shown))
        client = target.connect()
    except CaravanError as error:
        return Gateway(shown, is_local=True, now_s=now_s, fault=error)
    with client:
        asked = gather(
            {
                "status": lambda: _try(client.status),
                "models": lambda: _try(lambda: tuple(client.models.list())),
                "roles": lambda: _try(client.roles.list),
                # Permission is decided before existence, so this runs nothing.
                "infer": lambda: _try(lambda: client.tokenize("a", model=_NO_MODEL)),
            },
            limit_s=1.5 * PROBE_S,
        )
        may_administer = _is_allowed(asked.get("roles"))
        principal, roles = _whose_key(client, target.key_id) if may_administer else ("", None)
    return Gateway(
        shown,
        is_local,
        now_s,
        status=_answer(asked.get("status"), GatewayStatus),
        models=_answer(asked.get("models"), tuple),
        principal=principal,
        roles=roles,
        may_administer=may_administer,
        may_infer=_is_allowed(asked.get("infer")),
        client_version=target.client_version,
    )


def _shown(address: str | None) -> str:
    return address or os.environ.get("CARAVAN_ADDRESS") or DEFAULT_ADDRESS


def _try(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except CaravanError as error:
        return error


def _answer(value: object, kind: type[T]) -> T | CaravanError:
    return value if isinstance(value, kind | CaravanError) else _LATE


def _is_allowed(answer: object) -> bool | None:
    if isinstance(answer, PermissionDeniedError):
        return False
    return True if isinstance(answer, list | NotFoundError) else None


def _whose_key(client: "Caravan", key_id: str) -> tuple[str, tuple[str, ...] | None]:
    """Principal and roles of the key in use; nothing where they are not found in time."""

    def ask() -> object:
        mine = next((key for key in client.keys.list() if key.id == key_id), None)
        if mine is None:
            return None
        return client.principals.get(mine.principal, tenant=mine.tenant)

    principal = gather({"whose": lambda: _try(ask)}).get("whose")
    if isinstance(principal, Principal):
        return principal.name, principal.roles
    return "", None


def _probe_service(name: str, address: str, ops_address: str) -> Service:
    ready, missing = _ask_ready(ops_address)
    return Service(name, address, ops_address, _listens(address), ready, missing)


def _with_owners(service: Service, owners: Mapping[int, Owner]) -> Service:
    return Service(
        service.name,
        service.address,
        service.ops_address,
        service.listens,
        service.ready,
        service.missing,
        owners.get(_port(service.address)),
        owners.get(_port(service.ops_address)),
    )


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S).close()
    except (OSError, ValueError):
        return False
    return True


def _ask_ready(ops_address: str) -> tuple[bool | None, dict[str, str]]:
    """What the ops port says; None where it says nothing that makes sense."""
    host, _, port = ops_address.rpartition(":")
    try:
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=PROBE_S)
        try:
            connection.request("GET", "/health/ready")
            response = connection.getresponse()
            answer = json.loads(response.read(_BODY_BYTES))
            missing = {str(name): str(why) for name, why in answer["not_ready"].items()}
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None, {}
    return response.status == http.client.OK, missing


def _port(address: str) -> int:
    port = address.rpartition(":")[2]
    return int(port) if port.isdigit() else 0


def _config_file(path: str | None) -> dict[str, dict[str, dict[str, object]]]:
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the services' own words about it are among the installation's findings
