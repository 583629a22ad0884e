"""Python SDK and the `caravan` command.

Names are loaded when they are first used, because the command starts through this module too and
gRPC takes longer to load than `caravan --help` may take.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caravan_client.async_client import AsyncCaravan
    from caravan_client.async_transport import AsyncGenerationStream, AsyncStream
    from caravan_client.connection import Tls
    from caravan_client.embedding import Embedding, Embeddings, Pooling
    from caravan_client.errors import (
        AbortedError,
        AlreadyExistsError,
        CallCancelledError,
        CaravanError,
        ConfigurationError,
        DeadlineExceededError,
        FailedPreconditionError,
        FieldViolation,
        GatewayUnreachableError,
        InternalError,
        InvalidRequestError,
        NoCredentialError,
        NotFoundError,
        PermissionDeniedError,
        QuotaViolation,
        RateLimitedError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
    )
    from caravan_client.generation import (
        Choice,
        Completed,
        Delta,
        Dry,
        Event,
        Finished,
        FinishReason,
        Generation,
        Message,
        Mirostat,
        Role,
        Sampling,
        Started,
        TokenLogprob,
        TokenLogprobs,
        Usage,
        Xtc,
    )
    from caravan_client.resources import (
        ApiKey,
        ApiKeyState,
        CreatedApiKey,
        Dependency,
        DroppedPages,
        GatewayStatus,
        LoadPhase,
        LoadProgress,
        Model,
        ModelDetails,
        ModelState,
        Principal,
        Replica,
        ReplicaState,
        RoleDefinition,
        Span,
        SpanEvent,
        SpanKind,
        SpanStatus,
        Trace,
        UnloadedModel,
    )
    from caravan_client.sync_client import Caravan
    from caravan_client.sync_transport import GenerationStream, Stream

_HOMES = {
    "async_client": ("AsyncCaravan",),
    "async_transport": (
        "AsyncGenerationStream",
        "AsyncStream",
    ),
    "connection": ("Tls",),
    "embedding": (
        "Embedding",
        "Embeddings",
        "Pooling",
    ),
    "errors": (
        "AbortedError",
        "AlreadyExistsError",
        "CallCancelledError",
        "CaravanError",
        "ConfigurationError",
        "DeadlineExceededError",
        "FailedPreconditionError",
        "FieldViolation",
        "GatewayUnreachableError",
        "InternalError",
        "InvalidRequestError",
        "NoCredentialError",
        "NotFoundError",
        "PermissionDeniedError",
        "QuotaViolation",
        "RateLimitedError",
        "UnauthenticatedError",
        "UnavailableError",
        "UnimplementedError",
    ),
    "generation": (
        "Choice",
        "Completed",
        "Delta",
        "Dry",
        "Event",
        "Finished",
        "FinishReason",
        "Generation",
        "Message",
        "Mirostat",
        "Role",
        "Sampling",
        "Started",
        "TokenLogprob",
        "TokenLogprobs",
        "Usage",
        "Xtc",
    ),
    "resources": (
        "ApiKey",
        "ApiKeyState",
        "CreatedApiKey",
        "DroppedPages",
        "Dependency",
        "GatewayStatus",
        "LoadPhase",
        "LoadProgress",
        "Model",
        "ModelDetails",
        "ModelState",
        "Principal",
        "Replica",
        "ReplicaState",
        "RoleDefinition",
        "Span",
        "SpanEvent",
        "SpanKind",
        "SpanStatus",
        "Trace",
        "UnloadedModel",
    ),
    "sync_client": ("Caravan",),
    "sync_transport": (
        "GenerationStream",
        "Stream",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "ApiKey",
    "ApiKeyState",
    "AsyncCaravan",
    "AsyncGenerationStream",
    "AsyncStream",
    "CallCancelledError",
    "Caravan",
    "CaravanError",
    "Choice",
    "Completed",
    "ConfigurationError",
    "CreatedApiKey",
    "DeadlineExceededError",
    "Delta",
    "Dependency",
    "DroppedPages",
    "Dry",
    "Embedding",
    "Embeddings",
    "Event",
    "FailedPreconditionError",
    "FieldViolation",
    "FinishReason",
    "Finished",
    "GatewayStatus",
    "GatewayUnreachableError",
    "Generation",
    "GenerationStream",
    "InternalError",
    "InvalidRequestError",
    "LoadPhase",
    "LoadProgress",
    "Message",
    "Mirostat",
    "Model",
    "ModelDetails",
    "ModelState",
    "NoCredentialError",
    "NotFoundError",
    "PermissionDeniedError",
    "Pooling",
    "Principal",
    "QuotaViolation",
    "RateLimitedError",
    "Replica",
    "ReplicaState",
    "Role",
    "RoleDefinition",
    "Sampling",
    "Span",
    "SpanEvent",
    "SpanKind",
    "SpanStatus",
    "Started",
    "Stream",
    "Tls",
    "TokenLogprob",
    "TokenLogprobs",
    "Trace",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnloadedModel",
    "Usage",
    "Xtc",
]


def __getattr__(name: str) -> object:
    """Loads the module that a public name is from."""
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
