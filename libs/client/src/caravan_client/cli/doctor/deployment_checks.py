"""Checks of what runs."""

import shlex
from collections.abc import Iterator

from caravan_client.cli.doctor.facts import Deployment, Gateway, Service
from caravan_client.cli.doctor.findings import Finding, note, ok, problem, warning
from caravan_client.cli.hints import hint_for
from caravan_client.cli.quantities import time_text
from caravan_client.errors import CaravanError, GatewayUnreachableError, PermissionDeniedError
from caravan_client.resources import GatewayStatus, Model, ModelState, ReplicaState

MANY_SPOOLED_RECORDS = 1000
CLOCK_SLACK_S = 5.0

_RUN = "make run"


def check_services(deployment: Deployment) -> Iterator[Finding]:
    """Whether each service is there and ready, and is the one that it should be."""
    services = deployment.services
    is_reached = isinstance(deployment.gateway.status, GatewayStatus)
    nothing_runs = not any(one.listens or one.ready is not None for one in services)
    if services and nothing_runs and not is_reached:
        yield problem("no service runs on this computer", _start(deployment))
        return
    for service in services:
        yield from _check_service(service, deployment)


def _check_service(service: Service, deployment: Deployment) -> Iterator[Finding]:
    name = service.name
    stranger = _stranger(service, deployment)
    if stranger:
        yield stranger
    elif service.ready:
        yield ok(f"{name} is ready at {service.address}")
    elif service.ready is False:
        missing = ", ".join(
            f"{what} ({why})" if why else what for what, why in service.missing.items()
        )
        yield problem(
            f"{name} is not ready: {missing or 'it does not say why'}", _logs(name, deployment)
        )
    elif service.listens:
        yield problem(
            f"{name} listens at {service.address}, but its ops port {service.ops_address} "
            "does not answer",
            _again(deployment) or _logs(name, deployment),
        )
    elif _is_reached_elsewhere(name, deployment.gateway):
        yield note(f"{name} is not at {service.address}, but the gateway reaches it")
    else:
        yield problem(f"{name} does not run ({service.address})", _start(deployment))


def _stranger(service: Service, deployment: Deployment) -> Finding | None:
    """Somebody else on a port of the service."""
    for owner, address in (
        (service.owner, service.address),
        (service.ops_owner, service.ops_address),
    ):
        if owner is None or owner.pid is None:
            continue
        if owner.service != service.name and service.ready is None:
            return problem(
                f"{address}, which {service.name} needs, is taken by process {owner.pid} "
                f"({owner.program})",
                f"kill {owner.pid}, or give {service.name} another address",
            )
        if owner.home is not None and owner.home != deployment.home:
            return warning(
                f"{service.name} at {address} belongs to {owner.home}, not to {deployment.home}",
                f"export CARAVAN_HOME={shlex.quote(str(owner.home))}",
            )
    return None


def check_gateway(deployment: Deployment) -> Iterator[Finding]:
    """Whether calls arrive, and what the gateway itself says."""
    gateway = deployment.gateway
    if gateway.fault is not None:
        yield problem(f"the gateway was not asked: {gateway.fault.message}", _hint(gateway.fault))
        return
    answer = gateway.status
    if isinstance(answer, GatewayUnreachableError):
        mend = _start(deployment)
        if any(one.name == "gateway" and one.listens for one in deployment.services):
            mend = _again(deployment) or mend
        elif not gateway.is_local:
            mend = "check the address, the network and --tls"
        yield problem(f"the gateway cannot be reached at {gateway.address}", mend)
    elif isinstance(answer, GatewayStatus):
        yield from _check_status(answer, gateway)
    elif isinstance(gateway.models, CaravanError) and isinstance(answer, CaravanError):
        if answer.code not in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            yield problem(f"the gateway does not answer well: {_words(answer)}", _hint(answer))
        else:
            yield ok(f"the gateway answers at {gateway.address}")
    else:
        yield ok(f"the gateway answers at {gateway.address}")


def _check_status(status: GatewayStatus, gateway: Gateway) -> Iterator[Finding]:
    since = time_text(status.start_time)
    if status.serving:
        yield ok(
            f"the gateway answers at {gateway.address}, version {status.version}, since {since}"
        )
    else:
        yield problem(f"the gateway at {gateway.address} takes no calls", "caravan status")
    for one in status.dependencies:
        if not one.reachable:
            detail = f": {one.detail}" if one.detail else ""
            yield problem(f"the gateway cannot reach {one.service} at {one.address}{detail}", _RUN)
    if gateway.client_version and status.version != gateway.client_version:
        yield warning(
            f"the gateway has version {status.version}, this command {gateway.client_version}",
            "install the command of the gateway's version",
        )
    if (
        status.start_time is not None
        and status.start_time.timestamp() > gateway.now_s + CLOCK_SLACK_S
    ):
        yield problem(
            "the gateway has started in the future: one of the two clocks is wrong",
            "timedatectl set-ntp true",
        )


def check_key(deployment: Deployment) -> Iterator[Finding]:
    """Whether the API key works, and what it may do."""
    gateway = deployment.gateway
    answers = [one for one in (gateway.status, gateway.models) if isinstance(one, CaravanError)]
    refused = next((one for one in answers if one.code == "UNAUTHENTICATED"), None)
    if refused is not None:
        yield problem(f"the API key does not work: {_words(refused)}", _hint(refused))
    elif gateway.roles is not None:
        yield ok(f"the API key is {gateway.principal}'s, with the role {', '.join(gateway.roles)}")
    elif gateway.may_administer:
        yield ok("the API key works and may administer (role admin)")
    elif isinstance(gateway.status, GatewayStatus) and gateway.may_administer is None:
        yield note("the API key works; whether it may administer could not be found out")
    elif isinstance(gateway.status, GatewayStatus):
        role = {True: "operator", False: "readonly", None: "operator or readonly"}
        yield ok(f"the API key works, as one with the role {role[gateway.may_infer]} does")
    elif isinstance(gateway.models, tuple):
        yield ok("the API key works, as one with the role user does")
    elif answers and all(isinstance(one, PermissionDeniedError) for one in answers):
        yield problem("the API key works, but may do nothing", _hint(answers[0]))


def check_models(deployment: Deployment) -> Iterator[Finding]:
    """Whether there is a model to ask, and why others failed."""
    models = deployment.gateway.models
    if not isinstance(models, tuple):
        return
    for model in models:
        yield from _check_model(model)
    ready = [model.name for model in models if model.state is ModelState.READY]
    if ready:
        yield ok(f"models that are ready: {', '.join(ready)}")
    elif models:
        yield warning("no model is loaded", f"caravan models load {shlex.quote(models[0].name)}")
    else:
        yield warning("there are no models", "put a .gguf file into CARAVAN_HOME/models")


def _check_model(model: Model) -> Iterator[Finding]:
    again = f"mend its cause, then: caravan models load {shlex.quote(model.name)}"
    if model.state is ModelState.FAILED:
        yield problem(
            f"model {model.name} has failed: {model.state_detail or 'no reason given'}", again
        )
    for one in model.replicas:
        name = f"worker {model.name}/{one.index}"
        if one.state is ReplicaState.FAILED and model.state is not ModelState.FAILED:
            yield problem(f"{name} has failed: {one.state_detail or 'no reason given'}", again)
        elif one.state is ReplicaState.RESTARTING:
            yield warning(f"{name} is being restarted: {one.state_detail}", "caravan status")
        elif one.num_restarts:
            yield note(f"{name} was restarted {one.num_restarts} times")


def check_spool(deployment: Deployment) -> Iterator[Finding]:
    """Whether usage records reach telemetry."""
    status = deployment.gateway.status
    if not isinstance(status, GatewayStatus):
        return
    waiting = status.num_spooled_records
    if waiting > MANY_SPOOLED_RECORDS:
        yield warning(f"{waiting} usage records wait for telemetry", _logs("telemetry", deployment))
    else:
        yield ok(f"{waiting} usage records wait for telemetry")


def _is_reached_elsewhere(name: str, gateway: Gateway) -> bool:
    """As with containers, of which only the gateway is published."""
    if not isinstance(gateway.status, GatewayStatus):
        return False
    if name == "gateway":
        return True
    return any(one.service == name and one.reachable for one in gateway.status.dependencies)


def _start(deployment: Deployment) -> str:
    return (
        _RUN if deployment.can_start else "start the services, or name the gateway with --address"
    )


def _again(deployment: Deployment) -> str:
    """For what is there and hangs, which `make run` would leave alone."""
    return "make restart" if deployment.can_start else ""


def _logs(service: str, deployment: Deployment) -> str:
    return f"tail -n 40 {shlex.quote(str(deployment.home / 'logs' / f'{service}.log'))}"


def _hint(error: CaravanError) -> str:
    if error.code == "DEADLINE_EXCEEDED":  # its hint is about calls that take long by themselves
        return "see what else is found here, or ask again when there is less load"
    return hint_for(error) or ""


def _words(error: CaravanError) -> str:
    return f"{error.message.rstrip('.')} ({error.reason})"
