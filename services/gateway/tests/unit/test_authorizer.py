import pytest

from caravan_gateway.domain.access_rules import ACCESS_RULES
from caravan_gateway.domain.admission import require_access
from caravan_gateway.domain.authorizer import Authorizer
from caravan_gateway.domain.decision import Decision, model_resource
from caravan_gateway.domain.errors import PermissionDeniedError
from caravan_gateway.domain.policy_view import PolicyView
from caravan_gateway.domain.principal import Permission


class Checker:
    def __init__(self, *allowed):
        self.allowed = set(allowed)
        self.version = 1
        self.asked = []

    async def check_permission(self, question):
        self.asked.append((question.permission, question.resource))
        return Decision(question.permission in self.allowed, self.version)


@pytest.fixture
def view():
    view = PolicyView()
    view.resynchronize(1)
    return view


@pytest.fixture
def checker():
    return Checker(Permission.HEALTH)


@pytest.fixture
def authorizer(checker, view, fake_clock):
    return Authorizer(checker, view, max_entries=2, ttl_s=60, clock=fake_clock)


async def test_any_one_of_the_permissions_suffices(authorizer, make_identity, checker):
    wanted = (Permission.INFERENCE, Permission.HEALTH)
    await authorizer.require(make_identity(), wanted, "*")
    assert checker.asked == [("inference", "*"), ("health", "*")]


async def test_no_and_yes_are_remembered_by_version(authorizer, make_identity, checker, view):
    for _ in range(2):
        with pytest.raises(PermissionDeniedError) as caught:
            await authorizer.require(make_identity(), (Permission.MODELS,), "model/a")
    assert caught.value.metadata == {"permission": "models"}
    assert len(checker.asked) == 1

    checker.allowed.add(Permission.MODELS)
    checker.version = 2
    view.advance(2)
    await authorizer.require(make_identity(), (Permission.MODELS,), "model/a")


async def test_decisions_are_bounded_and_forgotten(authorizer, make_identity):
    for number in range(9):
        await authorizer.require(make_identity(), (Permission.HEALTH,), f"model/{number}")
    assert len(authorizer.answers) == 2
    authorizer.forget_all()
    assert len(authorizer.answers) == 0


async def test_decisions_of_one_principal_are_not_another_ones(authorizer, make_identity, checker):
    await authorizer.require(make_identity(), (Permission.HEALTH,), "*")
    await authorizer.require(make_identity(tenant="other"), (Permission.HEALTH,), "*")
    assert len(checker.asked) == 2


async def test_a_method_without_a_rule_is_denied(authorizer, make_identity):
    with pytest.raises(PermissionDeniedError):
        await require_access(authorizer, make_identity(), "some.Service/Method", "*")


async def test_rules_on_the_deployment_ignore_the_model(authorizer, make_identity, checker):
    method = "caravan.gateway.v1.GatewayAdminService/GetGatewayStatus"
    await require_access(authorizer, make_identity(), method, "model/a")
    assert checker.asked == [("health", "*")]


def test_every_public_method_has_a_rule():
    from caravan.gateway.v1 import gateway_admin_service_pb2, stream_service_pb2
    from caravan.inference.v1 import inference_service_pb2
    from caravan.model.v1 import model_service_pb2
    from caravan.policy.v1 import policy_admin_service_pb2
    from caravan.telemetry.v1 import trace_query_service_pb2

    services = (
        inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"],
        model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
        policy_admin_service_pb2.DESCRIPTOR.services_by_name["PolicyAdminService"],
        gateway_admin_service_pb2.DESCRIPTOR.services_by_name["GatewayAdminService"],
        stream_service_pb2.DESCRIPTOR.services_by_name["StreamService"],
        trace_query_service_pb2.DESCRIPTOR.services_by_name["TraceQueryService"],
    )
    methods = {
        f"{service.full_name}/{method.name}" for service in services for method in service.methods
    }
    assert methods == set(ACCESS_RULES)


@pytest.mark.parametrize(
    ("name", "resource"),
    [("tiny", "model/tiny"), ("", "*"), ("x" * 9000, "model/" + "x" * 256)],
)
def test_a_model_is_a_resource(name, resource):
    assert model_resource(name) == resource
