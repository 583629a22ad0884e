"""Settings of the journal of live requests."""

from pathlib import Path

from pydantic import Field

from caravan_servicekit.settings import Section


class JournalSettings(Section):
    """The journal of live requests, per worker: what a restarted worker goes on from."""

    enabled: bool = Field(
        False,
        description="Whether requests that their clients can resume are written down while they "
        "run, with their prompts; whoever reads the folder can read them.",
    )
    directory: Path | None = Field(
        None, description="Folder of journals; `none` means `<home>/journal`."
    )
    max_bytes: int = Field(
        64 * 2**20,
        ge=2**16,
        description="Most bytes of a journal, twice as many for a moment while it is rewritten; "
        "half may be of live requests, and those for which there is no room are left out.",
    )
    commit_interval_s: float = Field(
        0.05,
        ge=0,
        description="Seconds for which tokens are gathered that are written and forced to the "
        "medium together; so many may be lost, and are generated again. New requests are written "
        "at once.",
    )
