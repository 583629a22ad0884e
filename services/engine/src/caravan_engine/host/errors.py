"""The exceptions that only the host has; those of models as such are in `domain.errors`.

CaravanError
├── UnknownModelError       no model of this name
├── LoadAbandonedError      it was unloaded while it was being loaded
├── NoFreePortError         no port is left for a worker
├── HostDrainingError       the host is shutting down
└── TooManyWatchersError    more streams watch than are allowed
"""

from typing import ClassVar

from caravan_rpckit.errors import CaravanError, Reason


class UnknownModelError(CaravanError):
    """No model of this name or alias is in the model directory."""

    reason: ClassVar[Reason] = Reason.MODEL_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"no model is named {name!r}", metadata={"model": name})


class LoadAbandonedError(CaravanError):
    """Somebody unloaded the model while it was being loaded."""

    reason: ClassVar[Reason] = Reason.MODEL_NOT_LOADED

    def __init__(self, name: str) -> None:
        super().__init__(
            f"model {name!r} was unloaded while it was being loaded", metadata={"model": name}
        )


class NoFreePortError(CaravanError):
    """Every port of the workers' range is taken."""

    reason: ClassVar[Reason] = Reason.ADDRESS_IN_USE

    def __init__(self, first: int, last: int) -> None:
        super().__init__(f"no port from {first} to {last} is free for a worker")


class HostDrainingError(CaravanError):
    """The engine host is shutting down."""

    reason: ClassVar[Reason] = Reason.DRAINING

    def __init__(self) -> None:
        super().__init__("the engine is shutting down")


class TooManyWatchersError(CaravanError):
    """More streams watch than the host allows."""

    reason: ClassVar[Reason] = Reason.QUEUE_FULL

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} streams watch already", retry_after_s=5.0)
