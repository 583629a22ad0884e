"""What the server assembly itself refuses, before any servicer sees the call."""

from typing import ClassVar

from caravan_rpckit.errors import CaravanError, Reason


class MalformedRequestError(CaravanError):
    """The bytes are no message of the expected type."""

    reason: ClassVar[Reason] = Reason.MALFORMED_REQUEST


class RequestTooLargeError(CaravanError):
    """The request is over the documented limit."""

    reason: ClassVar[Reason] = Reason.REQUEST_TOO_LARGE


class PeerNotAllowedError(CaravanError):
    """An internal method was called with another service's certificate, or with none."""

    reason: ClassVar[Reason] = Reason.PEER_NOT_ALLOWED


class MethodNotServedError(CaravanError):
    """No such method."""

    reason: ClassVar[Reason] = Reason.METHOD_NOT_SERVED


class DependencyUnavailableError(CaravanError):
    """A service that this call needs cannot be reached."""

    reason: ClassVar[Reason] = Reason.DEPENDENCY_UNAVAILABLE


class DeadlineExceededError(CaravanError):
    """The caller's deadline passed."""

    reason: ClassVar[Reason] = Reason.DEADLINE_EXCEEDED


class CallCancelledError(CaravanError):
    """The caller left."""

    reason: ClassVar[Reason] = Reason.CANCELLED


class AddressInUseError(CaravanError):
    """Another process listens on the address."""

    reason: ClassVar[Reason] = Reason.ADDRESS_IN_USE


class InvalidTlsFilesError(CaravanError):
    """Certificate or key files are missing, unreadable or do not belong together."""

    reason: ClassVar[Reason] = Reason.INVALID_CONFIGURATION
