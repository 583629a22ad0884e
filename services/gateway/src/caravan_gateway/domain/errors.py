"""Everything the gateway itself refuses.

CaravanError
└── GatewayError
    ├── InvalidCredentialError      no credential, or one that is malformed, unknown or wrong
    ├── KeyExpiredError             the key's time is over
    ├── KeyRevokedError             the key was revoked
    ├── PermissionDeniedError       none of the caller's roles allows it
    ├── InvalidFieldsError          fields missing or out of range
    │   ├── EmptyInputError         there is nothing to work on
    │   └── AnswerTooLargeError     the answer would not fit into one message
    ├── ModelNotFoundError          no model of this name
    ├── ModelNotLoadedError         known, but nobody loaded it
    ├── ModelLoadingError           its worker is not ready yet
    ├── ModelFailedError            its workers could not be brought up
    ├── ModelDrainingError          it is being unloaded
    ├── WorkerDiedError             the process that served the call is gone
    ├── PoisonRequestError          workers died repeatedly while they computed it
    ├── DependencyUnavailableError  policy or engine do not answer
    ├── DrainingError               this gateway is shutting down
    ├── TooManyCallsError           as many calls run as are allowed
    ├── ReaderStalledError          the client does not read its answer
    ├── CallerDeadlineError         the caller's deadline passed
    ├── CallerLeftError             the caller cancelled
    ├── StreamNotKeptError          there is no such stream to resume
    ├── InsecureListenerError       would listen beyond this machine without TLS
    └── SpoolUnusableError          the usage spool cannot be opened
"""

from collections.abc import Sequence
from typing import ClassVar

from caravan_rpckit.errors import CaravanError, FieldViolation, Reason

RETRY_SOON_S = 1.0


class GatewayError(CaravanError):
    """Base of what the gateway refuses."""


class InvalidCredentialError(GatewayError):
    """One text for every cause, so that nobody learns which keys exist."""

    reason: ClassVar[Reason] = Reason.INVALID_CREDENTIAL

    def __init__(self) -> None:
        super().__init__(
            "No valid credential: send `authorization: Bearer <API key>` in the call's metadata."
        )


class KeyExpiredError(GatewayError):
    """The key was right once."""

    reason: ClassVar[Reason] = Reason.KEY_EXPIRED

    def __init__(self) -> None:
        super().__init__("The API key has expired.")


class KeyRevokedError(GatewayError):
    """The key was revoked, possibly while the call ran."""

    reason: ClassVar[Reason] = Reason.KEY_REVOKED

    def __init__(self) -> None:
        super().__init__("The API key was revoked.")


class PermissionDeniedError(GatewayError):
    """Raised before it is looked up whether the thing exists."""

    reason: ClassVar[Reason] = Reason.PERMISSION_DENIED

    def __init__(self, permissions: Sequence[str]) -> None:
        wanted = " or ".join(permissions)
        super().__init__(
            f"None of the caller's roles allows this: it needs {wanted}.",
            metadata={"permission": ",".join(permissions)},
        )


class InvalidFieldsError(GatewayError):
    """Names every faulty field at once."""

    reason: ClassVar[Reason] = Reason.INVALID_FIELD

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{more}.", field_violations=violations)


class EmptyInputError(InvalidFieldsError):
    """There is nothing to work on."""

    reason: ClassVar[Reason] = Reason.EMPTY_INPUT


class AnswerTooLargeError(InvalidFieldsError):
    """The answer would not fit into one message; `field` is what made it so large."""

    def __init__(self, field: str, max_bytes: int, advice: str = "ask for less at once") -> None:
        description = f"the answer is larger than {max_bytes} bytes; {advice}"
        super().__init__([FieldViolation(field, description)])


class ModelNotFoundError(GatewayError):
    """No engine host knows a model of this name or alias."""

    reason: ClassVar[Reason] = Reason.MODEL_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"No model is named {name!r}.", metadata={"model": name})


class ModelNotLoadedError(GatewayError):
    """The model is on disk only."""

    reason: ClassVar[Reason] = Reason.MODEL_NOT_LOADED

    def __init__(self, name: str) -> None:
        super().__init__(f"Model {name!r} is not loaded.", metadata={"model": name})


class ModelLoadingError(GatewayError):
    """No replica of the model is ready yet."""

    reason: ClassVar[Reason] = Reason.MODEL_LOADING

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Model {name!r} is being loaded.",
            metadata={"model": name},
            retry_after_s=RETRY_SOON_S,
        )


class ModelFailedError(GatewayError):
    """No replica could be brought up; `ListModels` says why."""

    reason: ClassVar[Reason] = Reason.MODEL_LOAD_FAILED

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Model {name!r} could not be loaded; `ListModels` says why.",
            metadata={"model": name},
        )


class ModelDrainingError(GatewayError):
    """The model finishes what runs before it is unloaded."""

    reason: ClassVar[Reason] = Reason.DRAINING

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Model {name!r} is being unloaded.",
            metadata={"model": name},
            retry_after_s=RETRY_SOON_S,
        )


class WorkerDiedError(GatewayError):
    """The worker process of the call died, or waits for its restart."""

    reason: ClassVar[Reason] = Reason.WORKER_DIED

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The worker of model {name!r} died and is being restarted.",
            metadata={"model": name},
            retry_after_s=RETRY_SOON_S,
        )


class PoisonRequestError(GatewayError):
    """The request is not tried on yet another worker."""

    reason: ClassVar[Reason] = Reason.POISON_REQUEST

    def __init__(self, name: str, num_deaths: int) -> None:
        super().__init__(
            f"{num_deaths} workers of model {name!r} died while they computed this request.",
            metadata={"model": name, "deaths": str(num_deaths)},
        )


class DependencyUnavailableError(GatewayError):
    """A service that the call needs does not answer."""

    reason: ClassVar[Reason] = Reason.DEPENDENCY_UNAVAILABLE

    def __init__(self, service: str, retry_after_s: float = RETRY_SOON_S) -> None:
        super().__init__(
            f"The {service} service cannot be reached at present.",
            metadata={"service": service},
            retry_after_s=retry_after_s,
        )


class DrainingError(GatewayError):
    """This gateway takes no new calls."""

    reason: ClassVar[Reason] = Reason.DRAINING

    def __init__(self) -> None:
        super().__init__("The gateway is shutting down.", retry_after_s=RETRY_SOON_S)


class TooManyCallsError(GatewayError):
    """As many calls run here as are allowed."""

    reason: ClassVar[Reason] = Reason.QUEUE_FULL

    def __init__(self, limit: int) -> None:
        super().__init__(f"This gateway runs {limit} calls already.", retry_after_s=RETRY_SOON_S)


class ReaderStalledError(GatewayError):
    """The client did not take its answer for too long."""

    reason: ClassVar[Reason] = Reason.READER_STALLED

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The client did not read its stream for {limit_s:g} s.")


class CallerDeadlineError(GatewayError):
    """The caller's deadline passed."""

    reason: ClassVar[Reason] = Reason.DEADLINE_EXCEEDED

    def __init__(self) -> None:
        super().__init__("The deadline passed.")


class CallerLeftError(GatewayError):
    """The caller cancelled or its connection broke."""

    reason: ClassVar[Reason] = Reason.CANCELLED

    def __init__(self) -> None:
        super().__init__("The caller left.")


class StreamNotKeptError(GatewayError):
    """No worker keeps the stream; somebody else's is none."""

    reason: ClassVar[Reason] = Reason.STREAM_NOT_KEPT

    def __init__(self, model: str) -> None:
        super().__init__(
            "No such stream is kept: its time is over, or it never could be resumed.",
            metadata={"model": model},
        )


class InsecureListenerError(GatewayError):
    """The public listener would show keys and prompts to the network."""

    reason: ClassVar[Reason] = Reason.INVALID_CONFIGURATION

    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address} is not a loopback address and TLS is off: API keys and prompts would "
            "cross the network readable. Set server.tls_certificate_path and "
            "server.tls_key_path, or allow it with server.allow_plaintext.",
            metadata={"address": address},
        )


class SpoolUnusableError(GatewayError):
    """The spool of usage records cannot be opened at the start."""

    reason: ClassVar[Reason] = Reason.DATA_DIRECTORY_UNWRITABLE

    def __init__(self, cause: str) -> None:
        super().__init__(f"can't open the spool of usage records: {cause}")
