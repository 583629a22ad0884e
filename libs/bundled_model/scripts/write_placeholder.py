"""Writes the placeholder model again, byte for byte; needs caravan-testkit.

Usage: python libs/bundled_model/scripts/write_placeholder.py [PATH]
"""

import sys
from pathlib import Path

from caravan_testkit.tiny_model import write_tiny_gguf

SHIPPED = Path(__file__).parents[1] / "src" / "caravan_bundled_model" / "bundled.gguf"
SEED = 0
NAME = "caravan-bundled-placeholder"


def main() -> None:
    """Writes to the given path, or over the shipped file."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED
    print(write_tiny_gguf(path, seed=SEED, name=NAME))


if __name__ == "__main__":
    main()
