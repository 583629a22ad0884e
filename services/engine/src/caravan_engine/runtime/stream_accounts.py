"""Who is told what generations used, while nobody else accounts for them."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from caravan_engine.runtime.retained_streams import RetainedStream


class StreamAccounts(Protocol):
    """Where it is noted what generations used, for the time after this process. Never blocks."""

    def changed(self, stream: "RetainedStream") -> None:
        """A generation is new, or came to something that is to be known soon."""
        ...

    def grew(self, stream: "RetainedStream") -> None:
        """It has more tokens."""
        ...

    def settled(self, usage_id: str) -> None:
        """Somebody else accounts for it."""
        ...


class NoAccounts:
    """Notes nothing; see `StreamAccounts`."""

    def changed(self, stream: "RetainedStream") -> None:
        """Ignored."""

    def grew(self, stream: "RetainedStream") -> None:
        """Ignored."""

    def owed(self, usage_id: str, record: bytes) -> None:
        """Ignored."""

    def settled(self, usage_id: str) -> None:
        """Ignored."""
