"""Settings of streams that outlive their readers."""

from pydantic import Field

from caravan_servicekit.settings import Section

_ACCOUNT_S = 60.0


class RetentionSettings(Section):
    """Streams whose connection broke, per worker; only those that their clients can resume."""

    time_s: float = Field(
        60.0,
        ge=0,
        description="Seconds for which a stream that nobody reads goes on and is kept; 0 keeps "
        "none.",
    )
    stream_bytes: int = Field(
        2**20,
        ge=2**12,
        description="Bytes that are kept of one stream; one that nobody reads waits when it has "
        "so many.",
    )
    total_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        description="Bytes that are kept of all streams; beyond that those are given up first "
        "that are over, and then those that nobody has read for longest.",
    )

    @property
    def account_s(self) -> float:
        """Seconds for which it is waited that a gateway accounts for a stream."""
        return self.time_s or _ACCOUNT_S
