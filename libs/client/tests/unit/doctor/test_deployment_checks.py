from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from caravan_client.cli.doctor import deployment_checks as checks
from caravan_client.cli.doctor.checks import CHECKS, examine
from caravan_client.cli.doctor.facts import SERVICES, Deployment, Facts, Gateway, Owner, Service
from caravan_client.cli.doctor.findings import Severity
from caravan_client.cli.doctor.report import is_healthy, summary
from caravan_client.errors import (
    DeadlineExceededError,
    ErrorDetails,
    GatewayUnreachableError,
    NoCredentialError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from caravan_client.resources import (
    Dependency,
    GatewayStatus,
    Model,
    ModelState,
    Replica,
    ReplicaState,
)

NOW_S = 1_800_000_000.0
HOME = Path("/data/.caravan")
REPLICA = Replica(0, ReplicaState.READY, 0, "", 42)
MODEL = Model("alpha", (), ModelState.READY, "", "d", 1, None, (REPLICA,))
STATUS = GatewayStatus(
    version="1.0",
    start_time=datetime.fromtimestamp(NOW_S - 60, UTC),
    serving=True,
    dependencies=tuple(
        Dependency(n, f"{n}:1", True, "") for n in ("policy", "telemetry", "engine")
    ),
    models=(MODEL,),
    num_active_calls=0,
    num_spooled_records=0,
)
GATEWAY = Gateway(
    "localhost:50051",
    is_local=True,
    now_s=NOW_S,
    status=STATUS,
    models=(MODEL,),
    principal="admin",
    roles=("admin",),
    may_administer=True,
    client_version="1.0",
)
GOOD = Deployment(
    services=tuple(
        Service(n, "127.0.0.1:1", "127.0.0.1:2", True, True, {}, Owner(7, "python", n, HOME))
        for n in SERVICES
    ),
    gateway=GATEWAY,
    home=HOME,
    can_start=True,
)
ALL = (
    checks.check_services,
    checks.check_gateway,
    checks.check_key,
    checks.check_models,
    checks.check_spool,
)
UNREACHABLE = GatewayUnreachableError("refused", ErrorDetails(code="UNAVAILABLE"))
DENIED = PermissionDeniedError("no", ErrorDetails(code="PERMISSION_DENIED"))
REFUSED = UnauthenticatedError(
    "No.", ErrorDetails(code="UNAUTHENTICATED", reason="INVALID_CREDENTIAL")
)
NO_KEY = NoCredentialError("no API key", ErrorDetails(reason="NO_CREDENTIAL"))
LATE = DeadlineExceededError("late", ErrorDetails(code="DEADLINE_EXCEEDED"))


def with_gateway(**change) -> Deployment:
    return replace(GOOD, gateway=replace(GATEWAY, **change))


def with_policy(deployment: Deployment = GOOD, **change) -> Deployment:
    services = tuple(
        replace(one, **change) if one.name == "policy" else one for one in deployment.services
    )
    return replace(deployment, services=services)


def wrong(check, deployment: Deployment) -> list[tuple[Severity, str, str]]:
    return [
        (one.severity, one.text, one.mend)
        for one in check(deployment)
        if one.severity in (Severity.PROBLEM, Severity.WARNING)
    ]


@pytest.mark.parametrize("check", ALL)
def test_good_deployment_is_fine(check):
    assert {finding.severity for finding in check(GOOD)} == {Severity.OK}


def test_service_that_is_not_ready_names_what_it_waits_for():
    ((severity, text, mend),) = wrong(
        checks.check_services, with_policy(ready=False, missing={"database": "migrating"})
    )
    assert severity is Severity.PROBLEM
    assert "policy is not ready: database (migrating)" in text
    assert mend == "tail -n 40 /data/.caravan/logs/policy.log"


def test_service_that_listens_and_says_nothing_hangs():
    ((_, text, _),) = wrong(checks.check_services, with_policy(ready=None))
    assert "does not answer" in text


def test_port_of_somebody_else_names_the_process():
    stranger = Owner(99, "nginx")
    ((severity, text, mend),) = wrong(
        checks.check_services, with_policy(ready=None, owner=stranger)
    )
    assert severity is Severity.PROBLEM
    assert "taken by process 99 (nginx)" in text
    assert mend.startswith("kill 99")


def test_service_of_another_home_is_told():
    ((severity, text, mend),) = wrong(
        checks.check_services, with_policy(owner=Owner(7, "python", "policy", Path("/other")))
    )
    assert severity is Severity.WARNING
    assert "/other" in text
    assert mend == "export CARAVAN_HOME=/other"


def test_one_service_that_is_down_is_a_problem_of_its_own():
    gone = {"listens": False, "ready": None, "owner": None}
    away = replace(STATUS, dependencies=(Dependency("policy", "a:1", False, "refused"),))
    deployment = with_policy(with_gateway(status=away), **gone)
    assert [text for _, text, _ in wrong(checks.check_services, deployment)] == [
        "policy does not run (127.0.0.1:1)"
    ]
    ((_, text, _),) = wrong(checks.check_gateway, deployment)
    assert "cannot reach policy at a:1: refused" in text


def test_service_that_only_the_gateway_reaches_is_fine():
    assert wrong(checks.check_services, with_policy(listens=False, ready=None)) == []


def test_nothing_running_is_one_problem():
    nothing = tuple(Service(n, "a:1", "a:2", listens=False, ready=None) for n in SERVICES)
    deployment = replace(with_gateway(status=UNREACHABLE, models=UNREACHABLE), services=nothing)
    assert wrong(checks.check_services, deployment) == [
        (Severity.PROBLEM, "no service runs on this computer", "make run")
    ]


@pytest.mark.parametrize(
    ("check", "change", "words"),
    [
        (checks.check_gateway, {"status": UNREACHABLE, "models": UNREACHABLE}, "cannot be reached"),
        (checks.check_gateway, {"status": LATE, "models": LATE}, "does not answer well"),
        (checks.check_gateway, {"fault": NO_KEY}, "no API key"),
        (checks.check_gateway, {"status": replace(STATUS, serving=False)}, "takes no calls"),
        (checks.check_gateway, {"client_version": "2.0"}, "version 1.0, this command 2.0"),
        (
            checks.check_gateway,
            {"status": replace(STATUS, start_time=datetime.fromtimestamp(NOW_S + 60, UTC))},
            "clocks is wrong",
        ),
        (
            checks.check_key,
            {"status": REFUSED, "models": REFUSED, "roles": None, "may_administer": None},
            "does not work",
        ),
        (
            checks.check_key,
            {"status": DENIED, "models": DENIED, "roles": None, "may_administer": False},
            "may do nothing",
        ),
        (checks.check_models, {"models": ()}, "no models"),
        (
            checks.check_models,
            {"models": (replace(MODEL, state=ModelState.UNLOADED, replicas=()),)},
            "no model is loaded",
        ),
        (
            checks.check_spool,
            {"status": replace(STATUS, num_spooled_records=100_000)},
            "wait for telemetry",
        ),
    ],
)
def test_what_is_wrong_with_the_gateway_is_told(check, change, words):
    ((_, text, mend),) = wrong(check, with_gateway(**change))
    assert words in text
    assert mend


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "admin's, with the role admin"),
        ({"roles": None}, "role admin"),
        ({"roles": None, "may_administer": False}, "operator or readonly"),
        ({"roles": None, "may_administer": None}, "could not be found out"),
        ({"roles": None, "may_administer": False, "may_infer": True}, "role operator does"),
        ({"roles": None, "may_administer": False, "may_infer": False}, "role readonly does"),
        ({"roles": None, "may_administer": False, "status": DENIED}, "role user does"),
    ],
)
def test_role_of_the_key_is_told(change, words):
    (finding,) = checks.check_key(with_gateway(**change))
    assert words in finding.text
    assert finding.severity in (Severity.OK, Severity.NOTE)


def test_failed_models_and_workers_have_their_reason():
    dead = replace(REPLICA, state=ReplicaState.FAILED, state_detail="out of memory")
    models = (
        replace(MODEL, name="beta", state=ModelState.FAILED, state_detail="torn file"),
        replace(MODEL, name="gamma", replicas=(REPLICA, dead)),
        replace(MODEL, replicas=(replace(REPLICA, state=ReplicaState.RESTARTING),)),
    )
    texts = [text for _, text, _ in wrong(checks.check_models, with_gateway(models=models))]
    assert "model beta has failed: torn file" in texts[0]
    assert "worker gamma/0 has failed: out of memory" in texts[1]
    assert "being restarted" in texts[2]


def test_checks_of_areas_without_facts_are_left_out():
    assert examine(Facts()) == []
    found = examine(Facts(deployment=GOOD))
    assert {one.area for one in found} == {"deployment"}
    assert is_healthy(found)
    assert summary(found) == "all is well"
    assert len({(check.area, check.name) for check in CHECKS}) == len(CHECKS)


def test_warnings_alone_are_healthy_and_problems_are_not():
    found = examine(Facts(deployment=with_gateway(models=())))
    assert is_healthy(found)
    assert summary(found) == "1 warning"
    found = examine(Facts(deployment=with_policy(ready=False)))
    assert not is_healthy(found)
    assert summary(found) == "1 problem"
