"""Prints parts of lock files, hashes included, which the image build installs as layers.

Usage: lock_entries.py common LOCK LOCK... | one PACKAGE LOCK
"""

import re
import sys
from pathlib import Path

# A line that names a package, and the lines after it that are indented.
_ENTRY = re.compile(r"^[A-Za-z0-9].*\n(?:[ \t]+.*\n)*", re.MULTILINE)


def entries(lock: str) -> list[str]:
    """Returns the packages of a lock, each with its marker and its hashes."""
    return _ENTRY.findall(lock)


def common(locks: list[str]) -> str:
    """Returns what all of `locks` pin in exactly the same way, in the order of the first."""
    shared = set.intersection(*(set(entries(lock)) for lock in locks))
    return "".join(entry for entry in entries(locks[0]) if entry in shared)


def one(package: str, lock: str) -> str:
    """Returns the entries of `package`.

    Raises:
        LookupError: the lock doesn't name it.
    """
    found = [entry for entry in entries(lock) if entry.startswith(f"{package}==")]
    if not found:
        raise LookupError(f"the lock doesn't name {package}")
    return "".join(found)


def main(arguments: list[str]) -> int:
    """Runs the command in `arguments` and returns the exit status."""
    match arguments:
        case ["common", _, _, *_]:
            print(common([Path(path).read_text() for path in arguments[1:]]), end="")
        case ["one", package, path]:
            print(one(package, Path(path).read_text()), end="")
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
