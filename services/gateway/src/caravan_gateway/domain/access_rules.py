"""Which permission each public method needs; nothing else is let through."""

from collections.abc import Mapping
from dataclasses import dataclass

from caravan_gateway.domain.principal import Permission

_READ_MODELS = (Permission.INFERENCE, Permission.HEALTH)


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Any one of the permissions suffices; on the named model, or on the deployment."""

    any_of: tuple[Permission, ...]
    on_model: bool = False


_INFERENCE = AccessRule((Permission.INFERENCE,), on_model=True)

ACCESS_RULES: Mapping[str, AccessRule] = {
    "caravan.inference.v1.InferenceService/Generate": _INFERENCE,
    "caravan.inference.v1.InferenceService/StreamGenerate": _INFERENCE,
    "caravan.inference.v1.InferenceService/Embed": _INFERENCE,
    "caravan.inference.v1.InferenceService/Tokenize": _INFERENCE,
    "caravan.inference.v1.InferenceService/Detokenize": _INFERENCE,
    "caravan.model.v1.ModelService/ListModels": AccessRule(_READ_MODELS),
    "caravan.model.v1.ModelService/GetModel": AccessRule(_READ_MODELS, on_model=True),
    "caravan.model.v1.ModelService/LoadModel": AccessRule((Permission.MODELS,), on_model=True),
    "caravan.model.v1.ModelService/UnloadModel": AccessRule((Permission.MODELS,), on_model=True),
    "caravan.policy.v1.PolicyAdminService/GetPrincipal": AccessRule((Permission.POLICY,)),
    "caravan.policy.v1.PolicyAdminService/ListPrincipals": AccessRule((Permission.POLICY,)),
    "caravan.policy.v1.PolicyAdminService/CreatePrincipal": AccessRule((Permission.POLICY,)),
    "caravan.policy.v1.PolicyAdminService/ListApiKeys": AccessRule((Permission.POLICY,)),
    "caravan.policy.v1.PolicyAdminService/CreateApiKey": AccessRule((Permission.POLICY,)),
    "caravan.policy.v1.PolicyAdminService/RevokeApiKey": AccessRule((Permission.POLICY,)),
    "caravan.policy.v1.PolicyAdminService/ListRoles": AccessRule((Permission.POLICY,)),
    "caravan.telemetry.v1.TraceQueryService/GetTrace": AccessRule((Permission.METRICS,)),
    "caravan.gateway.v1.StreamService/ResumeGenerate": _INFERENCE,
    "caravan.gateway.v1.StreamService/CancelGenerate": _INFERENCE,
    "caravan.gateway.v1.GatewayAdminService/GetGatewayStatus": AccessRule((Permission.HEALTH,)),
    "caravan.gateway.v1.GatewayAdminService/DropPages": AccessRule((Permission.MODELS,)),
    "caravan.gateway.v1.GatewayAdminService/SetPageBudgets": AccessRule(
        (Permission.MODELS,), on_model=True
    ),
    "caravan.gateway.v1.GatewayAdminService/DrainWorkers": AccessRule((Permission.MODELS,)),
    "caravan.gateway.v1.GatewayAdminService/ListCheckpoints": AccessRule((Permission.MODELS,)),
    "caravan.gateway.v1.GatewayAdminService/PruneCheckpoints": AccessRule((Permission.MODELS,)),
    "caravan.gateway.v1.GatewayAdminService/GetWorkerStats": AccessRule((Permission.METRICS,)),
}
