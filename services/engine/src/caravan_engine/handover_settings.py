"""Settings of what a drained worker hands over."""

from pathlib import Path

from pydantic import Field

from caravan_servicekit.settings import Section


class HandoverSettings(Section):
    """What a drained worker leaves of its streams to the workers that go on with them."""

    time_s: float = Field(
        5.0,
        ge=0,
        le=600,
        description="Seconds that a drained worker may take, when the time to finish is over, to "
        "write out memory of what still runs; the rest is computed again. 0 writes nothing.",
    )
    directory: Path | None = Field(
        None,
        description="Folder for that, which workers of several hosts may share; `none` means one "
        "in shared memory (`/dev/shm`), so nothing is stored, and nowhere where there is none.",
    )
    budget_bytes: int | None = Field(
        None,
        ge=0,
        description="Most bytes of a model that lie there; `none` means as many as its cells take.",
    )
    keep_s: float = Field(
        60.0, gt=0, description="Seconds after which what nobody has taken is removed."
    )
