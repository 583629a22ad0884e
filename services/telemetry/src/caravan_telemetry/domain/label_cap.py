"""Bounds how many values a metric's label may take."""


class LabelCap:
    """Lets the first `limit` distinct names through and calls every later one `other`.

    A name that got through once always does, so no series ever changes its meaning.
    """

    OTHER = "other"

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._names: set[str] = set()

    def label(self, name: str) -> str:
        """Returns what to call `name`."""
        if name not in self._names:
            if len(self._names) >= self._limit:
                return self.OTHER
            self._names.add(name)
        return name
