"""What a call is before anybody sends it, and the writing of its request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from caravan_client.errors import (
    ErrorDetails,
    FieldViolation,
    InternalError,
    InvalidRequestError,
)

REQUEST_LIMIT_BYTES = 4 * 1024 * 1024

T_co = TypeVar("T_co", covariant=True)
ResponseT = TypeVar("ResponseT", bound=Message)


@dataclass(frozen=True, slots=True)
class Operation(Generic[T_co]):
    """One call to make, over either kind of channel and as often as needed.

    `decode` turns each message of the answer into a value. `title` is what spans of it are named.
    """

    method: str
    payload: bytes = field(repr=False)
    decode: Callable[[bytes], T_co] = field(repr=False)
    title: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """A part of a list; an empty `next_token` says that it is the last one."""

    items: tuple[T_co, ...]
    next_token: str


def operation(
    method: str,
    request: Message,
    response: type[ResponseT],
    parse: Callable[[ResponseT], T_co],
    *,
    title: str = "",
) -> Operation[T_co]:
    """Makes the call of `method` with `request`; without a title it is named after the method.

    Raises:
        InvalidRequestError: the request is larger than any gateway takes.
    """
    payload = request.SerializeToString()
    if len(payload) > REQUEST_LIMIT_BYTES:
        raise InvalidRequestError(
            f"the request has {len(payload)} bytes; at most {REQUEST_LIMIT_BYTES} are allowed",
            ErrorDetails(
                reason="REQUEST_TOO_LARGE",
                metadata={
                    "size_bytes": str(len(payload)),
                    "limit_bytes": str(REQUEST_LIMIT_BYTES),
                },
            ),
        )

    def decode(data: bytes) -> T_co:
        try:
            return parse(response.FromString(data))
        except DecodeError:
            raise InternalError(
                "the gateway's answer cannot be read; is it a Caravan gateway?",
                ErrorDetails(reason="INVALID_ANSWER"),
            ) from None

    return Operation(method, payload, decode, title or method.removeprefix("/"))


def fill(message: Message, path: str = "", /, **values: object) -> None:
    """Sets the fields of `message` that have a value other than None.

    Args:
        message: what to write into.
        path: where `message` is in the request, with its dot, for naming a faulty field.
        values: by field name; tuples and lists extend, mappings update.

    Raises:
        InvalidRequestError: a value does not fit its field's type. Only what the wire format cannot
            express is refused here; limits are the server's.
    """
    for name, value in values.items():
        if value is None:
            continue
        try:
            _assign(message, name, value)
        except (TypeError, ValueError) as error:
            raise _refusal(f"{path}{name}", value, error) from None


def _assign(message: Message, name: str, value: object) -> None:
    if isinstance(value, Mapping):
        getattr(message, name).update(value)
    elif isinstance(value, tuple | list):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)


def _refusal(path: str, value: object, error: Exception) -> InvalidRequestError:
    if isinstance(error, UnicodeError):
        fault = "is not valid Unicode"  # the error itself quotes the text
    elif isinstance(error, TypeError):
        fault = f"cannot hold what it was given ({type(value).__name__})"
    else:
        fault = "is out of range"
    return InvalidRequestError(
        "the request cannot be built",
        ErrorDetails(reason="INVALID_FIELD", field_violations=(FieldViolation(path, fault),)),
    )
