"""A network namespace with two cables to this one, where the machine lets tests make it.

    this namespace                       the other one
    control .1 ───────────────────────── .2   clients, policy, engine host, telemetry
    workers .5 ─────── can be cut ────── .6   workers

Needs root and iproute2. What is made is named after this process, and goes with the last `close`.
"""

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass

_NETWORK = "198.18"  # RFC 2544: for tests, routed nowhere


class UnsupportedError(Exception):
    """The machine does not let us; the text says why."""


@dataclass(frozen=True)
class Cable:
    """The two ends of a veth pair, and their addresses."""

    device: str
    peer: str
    here: str
    there: str


class OtherNetwork:
    """The namespace, from its making to its end."""

    def __init__(self):
        number = os.getpid() % 65_536
        prefix = f"{_NETWORK}.{number % 256}"
        self.name = f"caravan-{os.getpid()}"
        self.control = Cable(f"cvc{number}", f"cvd{number}", f"{prefix}.1", f"{prefix}.2")
        self.workers = Cable(f"cvw{number}", f"cvx{number}", f"{prefix}.5", f"{prefix}.6")

    def open(self):
        """Makes everything.

        Raises:
            UnsupportedError: it can't be made here.
        """
        if shutil.which("ip") is None:
            raise UnsupportedError("there is no iproute2 (the `ip` command)")
        if os.geteuid() != 0:
            raise UnsupportedError("network namespaces need root")
        try:
            _ip("netns", "add", self.name)
            _ip("-n", self.name, "link", "set", "lo", "up")
            for cable in (self.control, self.workers):
                self._lay(cable)
        except subprocess.CalledProcessError as error:
            self.close()
            raise UnsupportedError(f"ip says: {error.stderr.strip()}") from None

    def close(self):
        """Removes everything; the cables go with the namespace, or with their end here."""
        for command in (
            ("netns", "delete", self.name),
            ("link", "delete", self.control.device),
            ("link", "delete", self.workers.device),
        ):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*command)

    def inside(self, *command):
        """The command that runs another one in there, as the same process."""
        return ("ip", "netns", "exec", self.name, *command)

    def cut(self):
        """From now on nothing passes to the workers or back, and nobody is told so."""
        _ip("link", "set", self.workers.device, "down")

    def mend(self):
        """Undoes the cut."""
        _ip("link", "set", self.workers.device, "up")

    def _lay(self, cable):
        _ip("link", "add", cable.device, "type", "veth", "peer", "name", cable.peer)
        _ip("link", "set", cable.peer, "netns", self.name)
        _ip("address", "add", f"{cable.here}/30", "dev", cable.device)
        _ip("link", "set", cable.device, "up")
        _ip("-n", self.name, "address", "add", f"{cable.there}/30", "dev", cable.peer)
        _ip("-n", self.name, "link", "set", cable.peer, "up")


def _ip(*arguments):
    subprocess.run(("ip", *arguments), check=True, capture_output=True, text=True, timeout=20)
