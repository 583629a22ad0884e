"""How a fake service admits, refuses and pages."""

from caravan_rpckit.call import Call
from caravan_rpckit.errors import CaravanError, Reason

KEY = "test-key-9d1f"
DIGEST = "ab" * 32


def failure(reason: str, message: str = "No.", **details) -> CaravanError:
    """An error as a service raises it."""
    kind = type("FakeError", (CaravanError,), {"reason": Reason(reason)})
    return kind(message, **details)


class FakeAnswers:
    """What the fake services have in common; tests read and write its attributes.

    Attributes:
        calls: (method, request, metadata) of every call that came.
        failures: raised by the next calls, one each, before anything is answered.
        page_size: how many entries a page of a list has.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, object, dict[str, str]]] = []
        self.failures: list[CaravanError] = []
        self.page_size = 2

    def _admit(self, request, call: Call) -> None:
        self.calls.append((call.method.rpartition("/")[2], request, dict(call.metadata)))
        if call.metadata.get("authorization") != f"Bearer {KEY}":
            raise failure("INVALID_CREDENTIAL", "The API key is missing or not valid.")
        if self.failures:
            raise self.failures.pop(0)

    def _page(self, names: list[str], token: str) -> tuple[list[str], str]:
        start = int(token or 0)
        end = start + self.page_size
        return names[start:end], str(end) if end < len(names) else ""
