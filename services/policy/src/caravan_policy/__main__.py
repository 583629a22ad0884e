"""`python -m caravan_policy`: reads the settings and runs the service.

With `--reset-admin-key` it writes a new admin key to `<home>/admin.key` instead, and ends.
"""

import sys

from caravan_policy.app import PolicyApp
from caravan_policy.config import PolicySettings
from caravan_policy.first_administrator import RESET_FLAG, AdminKeyReset
from caravan_servicekit.process import run_main


async def _done() -> None:
    """The reset has no more to do once it has started."""


def main() -> int:
    """Runs what the arguments ask for and returns the exit code."""
    arguments = sys.argv[1:]
    if RESET_FLAG not in arguments:
        return run_main(PolicySettings, PolicyApp.create, arguments)
    others = [argument for argument in arguments if argument != RESET_FLAG]
    return run_main(PolicySettings, AdminKeyReset.create, others, until=_done)


if __name__ == "__main__":
    sys.exit(main())
