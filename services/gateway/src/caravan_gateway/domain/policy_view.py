"""Which answers of policy may be believed."""


class PolicyView:
    """What is known of policy's version, and whether the news still arrive.

    An answer belongs to an epoch (a stretch without a gap in the news) and to a version. It is
    believed while the epoch lasts and no later version was announced. Owned by the event loop.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.version: int | None = None
        self.connected = False

    def resynchronize(self, version: int) -> None:
        """The news arrive (again): no earlier answer is believed any more."""
        self.epoch += 1
        self.version = version
        self.connected = True

    def advance(self, version: int) -> None:
        """A change was announced."""
        self.version = version

    def lose(self) -> None:
        """The news stopped; what is believed is believed until it goes out of date."""
        self.connected = False

    def accepts(self, epoch: int, version: int) -> bool:
        """Whether an answer of `version`, asked for in `epoch`, still holds.

        An answer may be newer than the news: both travel on their own.
        """
        return epoch == self.epoch and (self.version is None or version >= self.version)
