"""What a service still waits for before it is ready."""

from collections.abc import Iterable, Mapping


class Readiness:
    """Named conditions, all of which must hold; belongs to the event loop.

    Conditions are named when it is made and begin as not met, so that a forgotten one shows.
    """

    def __init__(self, conditions: Iterable[str]) -> None:
        self._unmet = dict.fromkeys(conditions, "not yet")
        self._known = frozenset(self._unmet)

    def met(self, condition: str) -> None:
        """Notes that `condition` holds now.

        Raises:
            KeyError: it was never named.
        """
        self._unmet.pop(self._named(condition), None)

    def unmet(self, condition: str, why: str) -> None:
        """Notes that `condition` doesn't hold (any more), and why, for the operator.

        Raises:
            KeyError: it was never named.
        """
        self._unmet[self._named(condition)] = why

    @property
    def is_ready(self) -> bool:
        """Whether every condition holds."""
        return not self._unmet

    @property
    def missing(self) -> Mapping[str, str]:
        """The conditions that don't hold, with the reason of each."""
        return dict(self._unmet)

    def _named(self, condition: str) -> str:
        if condition not in self._known:
            raise KeyError(condition)
        return condition
