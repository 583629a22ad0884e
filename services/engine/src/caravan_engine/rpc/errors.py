"""What only the wire can get wrong; the rest is in `domain.errors` and `host.errors`."""

from typing import ClassVar

from caravan_rpckit.errors import CaravanError, Reason


class WrongModelError(CaravanError):
    """The worker that the caller means is gone, and this one has its port."""

    reason: ClassVar[Reason] = Reason.WORKER_DIED

    def __init__(self, model: str) -> None:
        super().__init__(
            f"this worker does not serve {model!r}", metadata={"model": model}, retry_after_s=0.5
        )
