"""Makes the certificates and gives each service its own: the one-shot step before all services.

The CA with its key stays in CARAVAN_HOME of this step, which no service mounts. Every service has
a folder in SHARED, a volume of its own, with the CA's certificate and its own certificate and key.
"""

import os
import sys
from pathlib import Path

from caravan_rpckit import certificates

SHARED = Path("/certs")


def main(arguments: list[str]) -> int:
    """Takes the arguments of `caravan_rpckit.certificates` and returns the exit status."""
    home = Path(os.environ["CARAVAN_HOME"])
    status = certificates.main(["--home", str(home), *arguments])
    if status == 0:
        for service in certificates.SERVICES:
            share(home / "certs", service, SHARED / service)
    return status


def share(made: Path, service: str, folder: Path) -> None:
    """Brings `folder` up to date; a file that is right already is left alone."""
    for name in ("ca.crt", f"{service}.key", f"{service}.crt"):
        content = (made / name).read_bytes()
        target = folder / name
        if not target.exists() or target.read_bytes() != content:
            replace(target, content)


def replace(target: Path, content: bytes) -> None:
    """Writes a file that only this user may read, whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    partial.replace(target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
